"""Sealed archives: how the field publishes training data that should not be scraped.

`training_datasets.zip.enc` is 16 bytes of salt and then a Fernet token of a zip; the key is PBKDF2-HMAC-SHA256 of a
password (100,000 iterations, 32 bytes). The archive is opened in memory alone: its authors ask that unlocked copies
are never published, so nothing is written to disk. Whatever a zip could do to its reader is refused.
"""

import base64
import getpass
import io
import os
import stat
import sys
import warnings
import zipfile
import zlib
from collections import Counter
from pathlib import Path, PurePosixPath

from em_tasks.plugins.errors import UserError

SALT_BYTES = 16
ITERATIONS = 100_000
LARGEST_UNPACKED = 2**31
LARGEST_RATIO = 200
MOST_MEMBERS = 10_000
COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
ENCRYPTED = 0x1
"""The bit of a zip member's flags that says it has a password of its own."""

_typed: dict[Path, str] = {}
"""Passwords typed by hand that opened their archive, for as long as this process lives."""


class SealedArchiveError(UserError):
    """An archive that does not open or is not trusted; the message says why and what to do."""


def open_sealed(path: Path, content: bytes, password_env: str) -> dict[str, bytes]:
    """Unlocks an archive with the password in the environment variable `password_env`, or asks for it on a terminal.

    Args:
        path: The archive, for messages.
        content: Its bytes.
        password_env: Name of the environment variable.

    Returns:
        The files in it by name, in the archive's order.

    Raises:
        SealedArchiveError: No password is to be had, it does not fit, or the archive is damaged, unreasonably large
            when unpacked, or holds members that point outside their folder, are links, are locked or share a name.
    """
    typed = None
    password = os.environ.get(password_env) or _typed.get(path)
    if not password:
        password = typed = _ask(path, password_env)
    unlocked = _decrypt(path, content, password)
    if typed is not None:
        _typed[path] = typed
    try:
        with zipfile.ZipFile(io.BytesIO(unlocked)) as archive:
            return {info.filename: _unpacked(archive, info) for info in _checked(path, archive)}
    except SealedArchiveError:
        raise
    # What zipfile raises for a damaged archive depends on where the damage is.
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError) as error:
        raise SealedArchiveError(f"{path} was unlocked but holds no sound zip ({error}). Download it again.") from None


def _ask(path: Path, password_env: str) -> str:
    """A password typed on the terminal, unseen."""
    missing = (
        f"{path} is a sealed archive and {password_env} is not set. Set it to the password that the archive's "
        f"publisher prints beside it: export {password_env}=..."
    )
    if sys.stdin is None or not sys.stdin.isatty():
        raise SealedArchiveError(missing)
    try:
        with warnings.catch_warnings():
            # getpass would go on where it cannot hide what is typed.
            warnings.simplefilter("error", getpass.GetPassWarning)
            password = getpass.getpass(f"Password of {path.name}: ")
    except (EOFError, getpass.GetPassWarning):
        password = ""
    if not password:
        raise SealedArchiveError(f"No password was typed. {missing}")
    return password


def _decrypt(path: Path, content: bytes, password: str) -> bytes:
    from cryptography.fernet import Fernet, InvalidToken
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC

    key = PBKDF2HMAC(SHA256(), 32, content[:SALT_BYTES], ITERATIONS).derive(password.encode())
    try:
        return Fernet(base64.urlsafe_b64encode(key)).decrypt(content[SALT_BYTES:])
    except InvalidToken:
        raise SealedArchiveError(f"{path} does not open: the password is wrong or the file is damaged.") from None


def _checked(path: Path, archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """The members that are files, once all of them are known to be harmless."""
    members = [info for info in archive.infolist() if not info.is_dir()]
    if len(members) > MOST_MEMBERS:
        raise SealedArchiveError(f"{path} holds {len(members)} members, more than {MOST_MEMBERS}, and is refused.")
    for info in members:
        _check_member(path, info)
    if twice := [name for name, count in Counter(info.filename for info in members).items() if count > 1]:
        raise SealedArchiveError(
            f"{path} holds {', '.join(map(repr, twice))} more than once, so what it means is not clear."
        )
    if sum(info.file_size for info in members) > LARGEST_UNPACKED:
        raise SealedArchiveError(f"{path} unpacks to more than {LARGEST_UNPACKED >> 30} GiB and is refused.")
    return members


def _unpacked(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """One member, and never more of it than the size that was checked: sizes are only the archive's own claim."""
    with archive.open(info) as file:
        # Asked for everything at once, zipfile unpacks up to 2 GiB before it looks at the claim.
        content = file.read(info.file_size)
    if len(content) != info.file_size:
        raise zipfile.BadZipFile(f"{info.filename!r} is not as long as it claims")
    return content


def _check_member(path: Path, info: zipfile.ZipInfo) -> None:
    name = PurePosixPath(info.filename.replace("\\", "/"))
    if not name.parts or name.is_absolute() or ".." in name.parts or ":" in name.parts[0]:
        raise SealedArchiveError(
            f"{path} holds a member that points outside its folder ({info.filename!r}) and is refused."
        )
    if stat.S_ISLNK(info.external_attr >> 16):
        raise SealedArchiveError(f"{path} holds a link ({info.filename!r}) and is refused.")
    if info.flag_bits & ENCRYPTED:
        raise SealedArchiveError(
            f"{path} holds {info.filename!r}, which is locked with a password of its own: refused."
        )
    if info.compress_type not in COMPRESSIONS:
        raise SealedArchiveError(f"{path} holds {info.filename!r}, which is packed in an unusual way and is refused.")
    if info.file_size > 2**20 and info.file_size > LARGEST_RATIO * max(1, info.compress_size):
        raise SealedArchiveError(
            f"{path} holds {info.filename!r}, which unpacks to {info.file_size} bytes: refused as a bomb."
        )
