"""Archives sealed as the field seals its training data."""

import base64
import io
import zipfile
from pathlib import Path

from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC

from em_tasks.trainers.run.recipe import DataSource

SALT = b"sixteen bytes ok"


def zipped(members: list[tuple[str | zipfile.ZipInfo, bytes]], packing: int = zipfile.ZIP_DEFLATED) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", packing) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return packed.getvalue()


def lock(path: Path, content: bytes, password: str = "open") -> DataSource:
    key = base64.urlsafe_b64encode(PBKDF2HMAC(SHA256(), 32, SALT, 100_000).derive(password.encode()))
    path.write_bytes(SALT + Fernet(key).encrypt(content))
    return DataSource(path=str(path), password_env="TEST_PASSWORD")


def seal(path: Path, members: dict[str, bytes], password: str = "open") -> DataSource:
    return lock(path, zipped(list(members.items())), password)
