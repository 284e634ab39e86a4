"""Runs a server and ends it, with all that it started, when whoever wanted it is gone, however that ended.

    python guard.py COMMAND...

Standard input is a pipe that the owner holds open and never writes to: its end is the owner's. The guard leads a
session of its own, so that neither a terminal's Ctrl-C nor the end of the owner's process group reaches the server
before it does. It imports nothing of the project, to be there at once.
"""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time

GRACE = 5.0
"""Seconds that the server has to end by itself."""
_PR_SET_PDEATHSIG = 1


def main(command: list[str]) -> int:
    """Runs the command until it ends or the owner does; returns its exit code."""
    guard = os.getpid()

    def with_guard() -> None:
        """In the server's process, on Linux: a guard that is killed takes the server along."""
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != guard:
                os.kill(os.getpid(), signal.SIGKILL)

    # No thread runs yet that preexec_fn could disturb.
    try:
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=with_guard)  # noqa: PLW1509
    except OSError as error:
        print(f"{command[0]} cannot be started: {error}", file=sys.stderr)
        return 127
    signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def end_with_owner() -> None:
        os.read(0, 1)
        os.killpg(0, signal.SIGTERM)  # The guard itself ignores it.
        deadline = time.monotonic() + GRACE
        while server.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=end_with_owner, daemon=True).start()
    code = server.wait()
    os.killpg(0, signal.SIGTERM)  # What the server started may have outlived it.
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    if os.getpid() != os.getsid(0):
        os.setsid()
    # At once: a thread still waits for the pipe.
    os._exit(main(sys.argv[1:]) % 256)
