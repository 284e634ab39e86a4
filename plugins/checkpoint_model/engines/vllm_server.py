"""A vLLM server: one that is there (`VLLM_BASE_URL`), or one started for a base and ended with its owner.

vLLM may live in another Python: `EM_VLLM` is the command that stands for `vllm` (`EM_VLLM="/opt/vllm/bin/vllm"`). Its
output goes to a file. A server that dies is started again twice.
"""

import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from platformdirs import user_log_path

from em_tasks.plugins.checkpoint_model.engines import guard
from em_tasks.plugins.errors import UserError

COMMAND = "EM_VLLM"
ADDRESS = "VLLM_BASE_URL"
KEY = "VLLM_API_KEY"
PATIENCE = "EM_VLLM_PATIENCE"
START_SECONDS = 900.0
"""A large base takes minutes to load and compile; `EM_VLLM_PATIENCE` allows another time."""
RESTARTS = 2
PAUSE, PAUSES = 0.2, 50
"""Seconds between two looks at a server that failed, and how many there are."""


def given_address() -> str | None:
    """The server that `VLLM_BASE_URL` names, its address ending in /v1."""
    address = os.environ.get(ADDRESS)
    return address.rstrip("/").removesuffix("/v1") + "/v1" if address else None


@dataclass
class VllmServer:
    """A server for one base.

    Attributes:
        name: The base's name, for messages and the log file.
        arguments: Of `vllm serve`, without host and port; empty for one that is there.
        environment: What is added to the server's environment.
        address: Its base URL, ending in /v1; None until it is started.
        starts: How often it was started.
    """

    name: str
    arguments: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    address: str | None = field(default_factory=given_address)
    starts: int = 0
    _process: "subprocess.Popen[bytes] | None" = None

    def __post_init__(self) -> None:
        """Notes whose the server is, and where its output goes."""
        self.ours = self.address is None
        log = os.environ.get("EM_VLLM_LOG")
        name = "".join(c if c.isalnum() or c in "-." else "-" for c in self.name)
        self.log = Path(log) if log else user_log_path("em-tasks") / f"vllm-{name}-{os.getpid()}.log"

    @property
    def alive(self) -> bool:
        """Whether it was started and has not ended, as far as is known."""
        return self.address is not None and (
            not self.ours or (self._process is not None and self._process.poll() is None)
        )

    def ensure(self) -> bool:
        """Has the server running; returns whether it was started just now, with no adapter on it.

        Raises:
            UserError: It cannot be started or does not answer.
        """
        if not self.ours:
            if self.starts == 0:
                self._expect_health()
                self.starts = 1
                return True
            return False
        if self.alive:
            return False
        reason = ""
        while self.starts <= RESTARTS:
            self.starts += 1
            self._start()
            problem = self._wait_until_healthy()
            if problem is None:
                return True
            self.close()
            reason = problem
        raise UserError(
            f"The vLLM server for {self.name} was started {self.starts} times and does not run: "
            f"{reason or 'it ended'}. Its output is in {self.log}{self._last_words()} "
            "Mend that, or leave vLLM out: -M engine=auto"
        )

    def look_after(self) -> None:
        """After a failed request: waits until the server is well again or has ended, and ends one that hangs."""
        for _ in range(PAUSES):
            if self.ours and not self.alive:
                return
            time.sleep(PAUSE)
            try:
                if self.address and httpx.get(f"{self.address.removesuffix('/v1')}/health", timeout=5).is_success:
                    return
            except httpx.HTTPError:
                continue
        if self.ours:
            self.close()

    def get(self, path: str) -> Any:
        """The JSON at a path beside /v1.

        Raises:
            UserError: The server does not answer, or not with JSON.
        """
        assert self.address is not None
        url = self.address.removesuffix("/v1") + path
        try:
            reply = httpx.get(url, headers=headers(), timeout=30)
            reply.raise_for_status()
            return reply.json()
        except (httpx.HTTPError, ValueError) as error:
            raise UserError(
                f"The vLLM server at {url} does not answer as vLLM does ({_brief(error)}). {WAYS_OUT}"
            ) from None

    def close(self) -> None:
        """Ends a server that was started here, with all that it started."""
        process, self._process = self._process, None
        if self.ours:
            self.address = None
        if process is not None and process.stdin is not None:
            process.stdin.close()
            try:
                process.wait(2 * guard.GRACE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _start(self) -> None:
        command = shlex.split(os.environ.get(COMMAND) or "vllm")
        port = _free_port()
        given = [*command, "serve", *self.arguments, "--host", "127.0.0.1", "--port", str(port)]
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            log.write(f"\n--- {shlex.join(given)}\n".encode())
            log.flush()
            self._process = subprocess.Popen(
                [sys.executable, guard.__file__, *given],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env={**os.environ, **self.environment},
                start_new_session=True,
            )
        self.address = f"http://127.0.0.1:{port}/v1"

    def _wait_until_healthy(self) -> str | None:
        """Waits until the server answers; returns what is wrong if it ends or takes too long."""
        assert self._process is not None
        assert self.address is not None
        patience = float(os.environ.get(PATIENCE) or START_SECONDS)
        deadline = time.monotonic() + patience
        pause = 0.05
        while time.monotonic() < deadline:
            if (code := self._process.poll()) is not None:
                return f"it ended with exit code {code} before it answered"
            try:
                if httpx.get(self.address.removesuffix("/v1") + "/health", timeout=5).status_code == 200:
                    return None
            except httpx.HTTPError:
                pass
            time.sleep(pause)
            pause = min(1.0, 1.5 * pause)
        return f"it did not answer within {patience:.0f} seconds ({PATIENCE} allows more)"

    def _expect_health(self) -> None:
        assert self.address is not None
        url = self.address.removesuffix("/v1") + "/health"
        try:
            reply = httpx.get(url, headers=headers(), timeout=30)
        except httpx.HTTPError as error:
            raise UserError(f"No vLLM server answers at {url} ({_brief(error)}). {WAYS_OUT}") from None
        if reply.status_code != 200:
            raise UserError(f"The server at {url} is not well: it answers {reply.status_code}. {WAYS_OUT}")

    def _last_words(self) -> str:
        lines = self.log.read_text(errors="replace").split("---")[-1].strip().splitlines()[1:]
        return f", last: {' '.join(lines[-1].split())[:200]}." if lines else "."


WAYS_OUT = f"Check {ADDRESS}, or unset it, and a server is started (the command is {COMMAND}, else vllm)."


def headers() -> dict[str, str]:
    """What authorises us."""
    key = os.environ.get(KEY)
    return {"Authorization": f"Bearer {key}"} if key else {}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
