"""Runs a server and ends it, with all that it started, when whoever wanted it is gone, however that ended.

    python guard.py [--folder FOLDER] COMMAND...

A folder that is given is deleted at the end, too. Standard input is a pipe that the owner holds open and never writes
to: its end is the owner's. The guard leads a session of its own, so that neither a terminal's Ctrl-C nor the end of the
owner's process group reaches the server before it does. It imports nothing of the project, to be there at once.
"""

import ctypes
import os
import shutil
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
    guard, folder, owner_is_gone = os.getpid(), None, threading.Event()
    if command[0] == "--folder":
        folder, command = command[1], command[2:]

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
        owner_is_gone.set()
        os.killpg(0, signal.SIGTERM)  # The guard itself ignores it.
        time.sleep(GRACE)
        server.kill()

    threading.Thread(target=end_with_owner, daemon=True).start()
    code = server.wait()
    os.killpg(0, signal.SIGTERM)  # What the server started may have outlived it.
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)
    if owner_is_gone.is_set():
        os.killpg(0, signal.SIGKILL)  # The guard itself, too.
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    if os.getpid() != os.getsid(0):
        os.setsid()
    # At once: a thread still waits for the pipe.
    os._exit(main(sys.argv[1:]) % 256)
