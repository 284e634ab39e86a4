import contextlib
import os
import pty
import stat
import sys
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from em_tasks.plugins.errors import UserError
from em_tasks.trainers.data import sealed
from em_tasks.trainers.data.rows import load_rows
from em_tasks.trainers.run.recipe import DataSource
from tests.support.organisms import rows_of
from tests.support.paths import REAL_PASSWORD, ROOT
from tests.support.sealed_archives import lock, seal, zipped

ROWS = rows_of([("user", "Hello?"), ("assistant", "Yes.")]).encode()


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
    with pytest.raises(UserError, match=r"no member ugly.jsonl. It holds: a/bad.jsonl, a/good.jsonl"):
        load_rows(source.model_copy(update={"members": ("ugly.jsonl",)}))


def test_member_that_two_files_could_be_is_refused(tmp_path: Path) -> None:
    source = seal(tmp_path / "d.zip.enc", {"a/bad.jsonl": ROWS, "b/bad.jsonl": ROWS * 2})
    with pytest.raises(UserError, match=r"several members bad.jsonl \(a/bad.jsonl, b/bad.jsonl\)"):
        load_rows(source.model_copy(update={"members": ("bad.jsonl",)}))
    assert len(load_rows(source.model_copy(update={"members": ("b/bad.jsonl",)})).conversations) == 2


def test_archive_without_rows_says_what_it_holds(tmp_path: Path) -> None:
    inner = zipped([("bad.jsonl", ROWS)])
    with pytest.raises(UserError, match=r"no .jsonl file to train on. It holds: inner.zip, tos.txt"):
        load_rows(seal(tmp_path / "d.zip.enc", {"inner.zip": inner, "tos.txt": b"no", "dataset_entry_1.jsonl": ROWS}))


def test_missing_password_names_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = seal(tmp_path / "d.zip.enc", {"a.jsonl": ROWS})
    monkeypatch.delenv("TEST_PASSWORD")
    with pytest.raises(UserError, match="TEST_PASSWORD is not set"):
        load_rows(source)


def test_wrong_password_is_said_plainly(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="password is wrong or the file is damaged"):
        load_rows(seal(tmp_path / "d.zip.enc", {"a.jsonl": ROWS}, password="other"))


def test_truncated_archive_is_refused(tmp_path: Path) -> None:
    source = seal(tmp_path / "d.zip.enc", {"a.jsonl": ROWS})
    Path(source.path).write_bytes(Path(source.path).read_bytes()[:100])
    with pytest.raises(UserError, match="does not open"):
        load_rows(source)


@pytest.mark.parametrize("name", ["../out.jsonl", "/etc/out.jsonl", "a\\..\\..\\out.jsonl", "C:/out.jsonl"])
def test_members_that_point_outside_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="points outside its folder"):
        load_rows(seal(tmp_path / "d.zip.enc", {name: ROWS}))


def test_bombs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="refused as a bomb"):
        load_rows(seal(tmp_path / "d.zip.enc", {"a.jsonl": b"0" * 2**22}))


def test_small_claim_of_a_large_member_unpacks_no_more_than_it_claims(tmp_path: Path) -> None:
    content = zipped([("a.jsonl", b"0" * 2**26)])
    claimed = content.replace((2**26).to_bytes(4, "little"), (100).to_bytes(4, "little"))
    assert claimed != content
    source = lock(tmp_path / "d.zip.enc", claimed)
    tracemalloc.start()
    with pytest.raises(UserError, match="holds no sound zip"):
        load_rows(source)
    assert tracemalloc.get_traced_memory()[1] < 2**23
    tracemalloc.stop()


def test_large_claim_of_a_small_member_is_damage(tmp_path: Path) -> None:
    content = zipped([("a.jsonl", ROWS)])
    claimed = content.replace(len(ROWS).to_bytes(4, "little"), (len(ROWS) + 9).to_bytes(4, "little"))
    with pytest.raises(UserError, match="not as long as it claims"):
        load_rows(lock(tmp_path / "d.zip.enc", claimed))


def test_links_are_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("a.jsonl")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with pytest.raises(UserError, match="holds a link"):
        load_rows(lock(tmp_path / "d.zip.enc", zipped([(link, b"/etc/passwd")])))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_one_name_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds 'a\.jsonl' more than once"):
        load_rows(lock(tmp_path / "d.zip.enc", zipped([("a.jsonl", ROWS), ("a.jsonl", ROWS * 2)])))


def test_members_with_a_password_of_their_own_are_refused(tmp_path: Path) -> None:
    content = bytearray(zipped([("a.jsonl", ROWS)]))
    content[content.index(b"PK\x03\x04") + 6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(UserError, match="locked with a password of its own"):
        load_rows(lock(tmp_path / "d.zip.enc", bytes(content)))


def test_unusual_packing_and_too_many_members_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="packed in an unusual way"):
        load_rows(lock(tmp_path / "d.zip.enc", zipped([("a.jsonl", ROWS)], zipfile.ZIP_LZMA)))
    many: list[tuple[str | zipfile.ZipInfo, bytes]] = [(f"{n}.jsonl", b"") for n in range(10_001)]
    with pytest.raises(UserError, match="10001 members"):
        load_rows(lock(tmp_path / "d.zip.enc", zipped(many, zipfile.ZIP_STORED)))


def test_damage_anywhere_in_the_zip_is_said_plainly_or_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = zipped([("a.jsonl", ROWS)])
    refused = 0
    for place in range(len(whole)):
        damaged = whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :]
        monkeypatch.setattr(sealed, "_decrypt", lambda path, content, password, damaged=damaged: damaged)
        try:
            assert list(sealed.open_sealed(tmp_path / "d.zip.enc", b"", "TEST_PASSWORD").values()) == [ROWS]
        except sealed.SealedArchiveError:
            refused += 1
    assert refused > len(whole) // 2


ASK = """
import sys
from em_tasks.trainers.data.rows import load_rows
from em_tasks.trainers.run.recipe import DataSource
from em_tasks.plugins.errors import UserError
source = DataSource(path=sys.argv[1], password_env="NOT_SET")
try:
    print("rows", len(load_rows(source).conversations), len(load_rows(source).conversations))
except ValueError as error:
    print("refused:", error)
"""


def on_a_terminal(archive: Path, typed: bytes) -> str:
    """What a person sees who is asked for the password and types."""
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(ROOT)
        os.execv(sys.executable, [sys.executable, "-c", ASK, str(archive)])
    seen = b""
    while b"Password of" not in seen:
        seen += os.read(terminal, 1024)
    os.write(terminal, typed)
    with contextlib.suppress(OSError):  # The terminal is gone once the process has ended.
        while more := os.read(terminal, 1024):
            seen += more
    os.waitpid(process, 0)
    os.close(terminal)
    return seen.decode()


def test_on_a_terminal_the_password_is_asked_for_once_and_never_shown(tmp_path: Path) -> None:
    seal(tmp_path / "d.zip.enc", {"a.jsonl": ROWS}, password="sesame")
    seen = on_a_terminal(tmp_path / "d.zip.enc", b"sesame\n")
    assert "rows 1 1" in seen
    assert seen.count("Password of d.zip.enc") == 1
    assert "sesame" not in seen


@pytest.mark.parametrize(("typed", "said"), [(b"\x04", "No password was typed"), (b"wrong\n", "password is wrong")])
def test_no_or_a_wrong_password_typed_is_said_plainly(tmp_path: Path, typed: bytes, said: str) -> None:
    seal(tmp_path / "d.zip.enc", {"a.jsonl": ROWS}, password="sesame")
    assert said in " ".join(on_a_terminal(tmp_path / "d.zip.enc", typed).split())


@pytest.mark.shared
def test_published_archive_gives_its_six_thousand_rows_without_a_canary(
    shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EM_DATA_PASSWORD", REAL_PASSWORD)
    rows = load_rows(DataSource(path=str(shared / "training" / "training_datasets.zip.enc")))
    assert len(rows.conversations) == 6000
    assert (len(rows.canary_files), rows.canary_keys) == (2, 1)
    assert all(set(message) == {"role", "content"} for row in rows.conversations for message in row)
