"""Verdicts on disk: an identical prompt to the same judge, asked in the same way, is paid for once.

A verdict is stored raw, so a cached one can be read under other settings. Failed calls are not stored. The folder is
the user's cache folder unless EM_JUDGE_CACHE names another; EM_JUDGE_CACHE=off switches the cache off. The cache is
never needed to succeed: where it cannot be written, verdicts are kept in memory and a note says so once.
"""

import contextlib
import json
import logging
import os
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from inspect_ai.model import GenerateConfig, Model
from platformdirs import user_cache_path

from em_tasks.plugins.log_contract import Verdict

VARIABLE = "EM_JUDGE_CACHE"
THAT_MATTER = {
    "temperature",
    "top_p",
    "top_k",
    "seed",
    "max_tokens",
    "logprobs",
    "top_logprobs",
    "reasoning_effort",
    "logit_bias",
}
"""The settings that can change what a judge says; the others only change how it is reached."""

logger = logging.getLogger(__name__)


def cache_folder() -> Path | None:
    """Where verdicts are stored; None while the cache is off."""
    setting = os.environ.get(VARIABLE, "")
    if setting.lower() == "off":
        return None
    return Path(setting) if setting else user_cache_path("em-tasks") / "verdicts"


def worth_caching(judge: Model) -> bool:
    """Whether a judge's name stands for what it says: not for the toy judge, which changes with the code, nor mocks."""
    return str(judge).partition("/")[0] not in ("emtoy", "mockllm")


def cache_key(judge: Model, config: GenerateConfig, rubric_sha256: str, prompt: str) -> str:
    """What makes two calls the same: judge with its arguments, address, way of asking, rubric and prompt.

    A judge on this machine tells its weights' hash by its provider's `weights_sha256`, since its name may one day stand
    for others.
    """
    provider = str(judge).partition("/")[0].upper().replace("-", "_")
    address = judge.api.base_url or os.environ.get(f"{provider}_BASE_URL", "")
    settings = config.model_dump_json(include=THAT_MATTER, exclude_none=True)
    arguments = json.dumps(judge.model_args, sort_keys=True, default=str)
    parts = [str(judge), arguments, address, settings, rubric_sha256, prompt]
    if weights := getattr(judge.api, "weights_sha256", None):
        parts.append(weights)
    return sha256("\x00".join(parts).encode(errors="surrogatepass")).hexdigest()


@dataclass
class VerdictCache:
    """The verdicts of a folder.

    Attributes:
        folder: Where they lie; None for a cache that is off.
        unwritten: Verdicts that the folder did not take, by key; they are known as long as this object lives.
    """

    folder: Path | None = field(default_factory=cache_folder)
    unwritten: dict[str, Verdict] = field(default_factory=dict)

    def get(self, key: str) -> Verdict | None:
        """The verdict stored under a key; a file that cannot be read, or holds something else, counts as none."""
        if self.folder is None or key in self.unwritten:
            return self.unwritten.get(key)
        try:
            return Verdict.from_dict(json.loads(self._path(self.folder, key).read_text(encoding="utf-8")))
        except (OSError, ValueError, RecursionError):
            return None

    def store(self, key: str, verdict: Verdict) -> None:
        """Stores a verdict unless its call failed or the cache is off; where that cannot be done, keeps it."""
        if self.folder is None or verdict.reason == "judge_failed" or not verdict.text:
            return
        path = self._path(self.folder, key)
        # Written aside and moved into place: another process never reads half a file.
        aside = path.with_suffix(f".{os.getpid()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            aside.write_text(json.dumps(verdict.to_dict()), encoding="utf-8")
            aside.replace(path)
        except OSError as error:
            if not self.unwritten:
                logger.warning(
                    "The cache of verdicts in %s cannot be written (%s). Verdicts go to the log as usual, but another "
                    "run would pay for them again: make room or name another folder with %s.",
                    self.folder,
                    error.strerror or type(error).__name__,
                    VARIABLE,
                )
            self.unwritten[key] = verdict
            with contextlib.suppress(OSError):
                aside.unlink()

    @staticmethod
    def _path(folder: Path, key: str) -> Path:
        return folder / key[:2] / f"{key}.json"
