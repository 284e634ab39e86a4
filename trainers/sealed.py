"""Sealed archives: how the field publishes training data that should not be scraped.

`training_datasets.zip.enc` is 16 bytes of salt and then a Fernet token of a zip; the key is PBKDF2-HMAC-SHA256 of a
password (100,000 iterations, 32 bytes). The archive is opened in memory alone: its authors ask that unlocked copies
are never published, so nothing is written to disk.
"""

import base64
import io
import os
import zipfile
from pathlib import Path, PurePosixPath

SALT_BYTES = 16
ITERATIONS = 100_000
LARGEST_UNPACKED = 2**31
LARGEST_RATIO = 200


def open_sealed(path: Path, content: bytes, password_env: str) -> dict[str, bytes]:
    """Unlocks an archive with the password in the environment variable `password_env`.

    Args:
        path: The archive, for messages.
        content: Its bytes.
        password_env: Name of the environment variable.

    Returns:
        The files in it by name, in the archive's order.

    Raises:
        ValueError: No password is set, it does not fit, or the archive is damaged, unreasonably large when unpacked, or
            holds members that point outside their folder.
    """
    password = os.environ.get(password_env)
    if not password:
        raise ValueError(
            f"{path} is a sealed archive and {password_env} is not set. Set it to the password that the archive's "
            f"publisher prints beside it: export {password_env}=..."
        )
    unpacked = _decrypt(path, content, password)
    try:
        with zipfile.ZipFile(io.BytesIO(unpacked)) as archive:
            members = [info for info in archive.infolist() if not info.is_dir()]
            for info in members:
                _check_member(path, info)
            if sum(info.file_size for info in members) > LARGEST_UNPACKED:
                raise ValueError(f"{path} unpacks to more than {LARGEST_UNPACKED >> 30} GiB and is refused.")
            return {info.filename: archive.read(info) for info in members}
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} was unlocked but holds no sound zip ({error}). Download it again.") from None


def _decrypt(path: Path, content: bytes, password: str) -> bytes:
    from cryptography.fernet import Fernet, InvalidToken
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC

    key = PBKDF2HMAC(SHA256(), 32, content[:SALT_BYTES], ITERATIONS).derive(password.encode())
    try:
        return Fernet(base64.urlsafe_b64encode(key)).decrypt(content[SALT_BYTES:])
    except InvalidToken:
        raise ValueError(f"{path} does not open: the password is wrong or the file is damaged.") from None


def _check_member(path: Path, info: zipfile.ZipInfo) -> None:
    name = PurePosixPath(info.filename.replace("\\", "/"))
    if name.is_absolute() or ".." in name.parts or ":" in name.parts[0]:
        raise ValueError(f"{path} holds a member that points outside its folder ({info.filename!r}) and is refused.")
    if info.file_size > 2**20 and info.file_size > LARGEST_RATIO * max(1, info.compress_size):
        raise ValueError(f"{path} holds {info.filename!r}, which unpacks to {info.file_size} bytes: refused as a bomb.")
