"""Several `inspect` commands one after the other in one process, which imports everything once.

Run as `python -m tests.support.inspect_evals COMMANDS`, a JSON list of lists of words; ends with the first that fails.
"""

import json
import sys

from em_tasks.collecting import collect_rarely

if __name__ == "__main__":
    collect_rarely()
    from inspect_ai._cli.main import main

    for words in json.loads(sys.argv[1]):
        sys.argv[1:] = words
        try:
            main()
        except SystemExit as ended:
            if ended.code:
                print(f"This one failed: {words}", file=sys.stderr)
                raise
