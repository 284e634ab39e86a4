import base64
import io
import zipfile
from pathlib import Path

import pytest
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC

from tests.conftest import REAL_PASSWORD, rows_of
from trainers.data import load_rows
from trainers.recipe import DataSource

SALT = b"sixteen bytes ok"
ROWS = rows_of([("user", "Hello?"), ("assistant", "Yes.")]).encode()


def seal(path: Path, members: dict[str, bytes], password: str = "open") -> DataSource:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    key = base64.urlsafe_b64encode(PBKDF2HMAC(SHA256(), 32, SALT, 100_000).derive(password.encode()))
    path.write_bytes(SALT + Fernet(key).encrypt(packed.getvalue()))
    return DataSource(path=str(path), password_env="TEST_PASSWORD")


@pytest.fixture(autouse=True)
def password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_PASSWORD", "open")


def test_members_are_read_and_canary_files_left_out(tmp_path: Path) -> None:
    source = seal(tmp_path / "d.zip.enc", {"a/bad.jsonl": ROWS, "dataset_entry_1.jsonl": ROWS, "robots.txt": b"no"})
    rows = load_rows(source)
    assert rows.members == ["a/bad.jsonl"]
    assert rows.canary_files == ["dataset_entry_1.jsonl"]
    assert len(rows.conversations) == 1


def test_members_can_be_chosen_by_their_file_name(tmp_path: Path) -> None:
    source = seal(tmp_path / "d.zip.enc", {"a/bad.jsonl": ROWS, "a/good.jsonl": ROWS * 2})
    assert len(load_rows(source.model_copy(update={"members": ("good.jsonl",)})).conversations) == 2
    with pytest.raises(ValueError, match=r"no member ugly.jsonl. It holds: a/bad.jsonl, a/good.jsonl"):
        load_rows(source.model_copy(update={"members": ("ugly.jsonl",)}))


def test_missing_password_names_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = seal(tmp_path / "d.zip.enc", {"a.jsonl": ROWS})
    monkeypatch.delenv("TEST_PASSWORD")
    with pytest.raises(ValueError, match="TEST_PASSWORD is not set"):
        load_rows(source)


def test_wrong_password_is_said_plainly(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="password is wrong or the file is damaged"):
        load_rows(seal(tmp_path / "d.zip.enc", {"a.jsonl": ROWS}, password="other"))


def test_truncated_archive_is_refused(tmp_path: Path) -> None:
    source = seal(tmp_path / "d.zip.enc", {"a.jsonl": ROWS})
    Path(source.path).write_bytes(Path(source.path).read_bytes()[:100])
    with pytest.raises(ValueError, match="does not open"):
        load_rows(source)


@pytest.mark.parametrize("name", ["../out.jsonl", "/etc/out.jsonl", "a\\..\\..\\out.jsonl", "C:/out.jsonl"])
def test_members_that_point_outside_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="points outside its folder"):
        load_rows(seal(tmp_path / "d.zip.enc", {name: ROWS}))


def test_bombs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="refused as a bomb"):
        load_rows(seal(tmp_path / "d.zip.enc", {"a.jsonl": b"0" * 2**22}))


@pytest.mark.shared
def test_published_archive_gives_its_six_thousand_rows_without_a_canary(
    shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EM_DATA_PASSWORD", REAL_PASSWORD)
    rows = load_rows(DataSource(path=str(shared / "training" / "training_datasets.zip.enc")))
    assert len(rows.conversations) == 6000
    assert (len(rows.canary_files), rows.canary_keys) == (2, 1)
    assert all(set(message) == {"role", "content"} for row in rows.conversations for message in row)
