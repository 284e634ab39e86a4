"""Two hundred of the adversary's cases, other ones of which `python -m tests.adversary` runs by the ten thousand."""

import os
import subprocess
import sys

from tests.support.paths import ROOT


def test_no_made_up_input_does_harm() -> None:
    # In a process of its own: it is forked for each kind of attack, and confines itself.
    ran = subprocess.run(
        [sys.executable, "-m", "tests.adversary", "--cases", "200", "--seed", "20261121"],
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-5000:] + ran.stderr[-2000:]
