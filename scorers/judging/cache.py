"""Verdicts on disk: an identical prompt to the same judge, asked in the same way, is paid for once.

A verdict is stored raw, so a cached one can be read under other settings. Failed calls are not stored. The folder is
the user's cache folder unless EM_JUDGE_CACHE names another; EM_JUDGE_CACHE=off switches the cache off.
"""

import json
import os
from hashlib import sha256
from pathlib import Path

from inspect_ai.model import GenerateConfig, Model
from platformdirs import user_cache_path

from em_tasks.scorers.judging.verdict import Verdict

VARIABLE = "EM_JUDGE_CACHE"
ASKING = {
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
    """What makes two calls the same: judge with its arguments, address, way of asking, rubric and prompt."""
    provider = str(judge).partition("/")[0].upper().replace("-", "_")
    address = judge.api.base_url or os.environ.get(f"{provider}_BASE_URL", "")
    asked = config.model_dump_json(include=ASKING, exclude_none=True)
    arguments = json.dumps(judge.model_args, sort_keys=True, default=str)
    parts = [str(judge), arguments, address, asked, rubric_sha256, prompt]
    return sha256("\x00".join(parts).encode(errors="surrogatepass")).hexdigest()


def cached_verdict(key: str) -> Verdict | None:
    """The verdict stored under a key; a file that cannot be read counts as none."""
    folder = cache_folder()
    if folder is None:
        return None
    try:
        return Verdict.from_dict(json.loads(_path(folder, key).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None


def store_verdict(key: str, verdict: Verdict) -> None:
    """Stores a verdict unless its call failed or the cache is off."""
    folder = cache_folder()
    if folder is None or verdict.reason == "judge_failed" or not verdict.text:
        return
    path = _path(folder, key)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Written aside and moved into place: another process never reads half a file.
    aside = path.with_suffix(f".{os.getpid()}")
    aside.write_text(json.dumps(verdict.to_dict()), encoding="utf-8")
    aside.replace(path)


def _path(folder: Path, key: str) -> Path:
    return folder / key[:2] / f"{key}.json"
