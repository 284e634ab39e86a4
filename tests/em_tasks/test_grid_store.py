"""A grid's store behind a URL: what is there is whole, what is missing is done elsewhere, and what fails is named."""

import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from signal import SIGTERM

import pytest
from click.testing import CliRunner
from fsspec.registry import _registry as registry

from em_tasks.commands.cli import cli
from em_tasks.commands.organisms import grid as command
from em_tasks.commands.results import report
from em_tasks.grid import copying
from em_tasks.grid.copying import Copying, fetch
from em_tasks.grid.executors.protocol import More
from em_tasks.grid.plan import GridPlan, plan_grid
from em_tasks.grid.store import Store, StoreError
from em_tasks.grid.units import Report, Train, Unit
from em_tasks.plugins.errors import UserError
from em_tasks.trainers.loop.stopping import Stopped
from em_tasks.trainers.run.manifest import MANIFEST, read_manifest, write_manifest
from tests.support.fake_s3 import BUCKET, FakeS3, fake_s3
from tests.support.grids import Serial, adapters, grid_file, run_grid
from tests.support.sweeps import answers

URL = f"s3://{BUCKET}/dose/toy"
MARKER = "dose/toy/stored/runs/tiny-seed3.json"
ADAPTER = "dose/toy/runs/tiny-seed3/checkpoint-2/adapter_model.safetensors"


@dataclass(frozen=True)
class Done:
    """A grid that was done with a store."""

    grid: Path
    plan: GridPlan
    written: list[tuple[str, bytes]]
    objects: dict[str, bytes]

    def objects_of(self, folder: str) -> list[str]:
        return [key for key in self.objects if key.startswith(f"dose/toy/{folder}/")]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    folder = tmp_path_factory.mktemp("store")
    grid = grid_file(folder, {"seed": [3]})
    with pytest.MonkeyPatch.context() as patch, fake_s3(patch) as s3:
        plan, _ = run_grid(grid, folder / "out", reported=False, url=URL)
    return Done(grid, plan, s3.written, s3.objects)


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeS3]:
    monkeypatch.setattr(copying, "LAST_TRIES", (0.0, 0.0))
    with fake_s3(monkeypatch) as server:
        yield server


def opened(url: str = URL) -> Store:
    store = Store(url)
    store.open("tiny")
    return store


def test_at_no_moment_of_copying_does_a_marker_stand_for_what_is_not_there(done: Done) -> None:
    """Whatever a kill leaves is what the first so many writes made."""
    there: dict[str, bytes] = {}
    steps = set()
    for key, content in done.written:
        there[key] = content
        for marker in (key for key in there if "/stored/" in key and not key.endswith("grid.json")):
            held = json.loads(there[marker])
            assert all(sha256(there[f"dose/toy/{path}"]).hexdigest() == held["files"][path] for path in held["files"])
            if held["manifest"]:
                steps.add((marker, len(held["manifest"]["checkpoints"])))
    assert (MARKER, 2) in steps
    assert done.objects["dose/toy/runs/tiny-seed3/manifest.json"]


def test_empty_machine_has_everything_again_and_nothing_to_do(
    done: Done, s3: FakeS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_report(report: Report, say: Callable[[str], None]) -> list[str]:
        report.out.mkdir(exist_ok=True)
        (report.out / "report.html").write_text("the report")
        return []

    s3.objects |= done.objects
    executor = Serial()
    monkeypatch.setattr(Report, "work", write_report)
    monkeypatch.setattr(command, "_executor", lambda *arguments, **options: executor)
    out = tmp_path / "elsewhere"
    given = ["grid", str(done.grid), "--out", str(out), "--store", URL]
    assert "s3://studies/dose/toy holds 4 pieces" in CliRunner().invoke(cli, [*given, "--dry-run"]).output
    assert not out.exists()
    ran = CliRunner().invoke(cli, given, catch_exceptions=False)
    assert ran.exit_code == 0, ran.output
    assert [unit.name for unit in executor.done] == ["report"]
    assert s3.objects["dose/toy/report/report.html"] == b"the report"
    assert adapters(out / "runs") == adapters(done.plan.runs)
    assert answers(out / "logs") == answers(done.plan.logs)
    s3.written.clear()
    ran = CliRunner().invoke(cli, given, catch_exceptions=False)
    assert "0 files fetched from there" in ran.output
    assert [key for key, _ in s3.written] == ["dose/toy/stored/grid.json"]


def test_machine_that_goes_in_mid_training_is_continued_elsewhere_with_equal_adapters_and_answers(
    done: Done, s3: FakeS3, tmp_path: Path
) -> None:
    class Vanishing(Serial):
        """A machine that is told to go when the run has its first checkpoint."""

        def run(self, units: Sequence[Unit], folder: Path, more: More) -> None:
            (training,) = units
            assert isinstance(training, Train)

            def go(text: str) -> None:
                run = training.runs / "tiny-seed3"
                if (run / MANIFEST).is_file() and read_manifest(run).checkpoints:
                    raise Stopped("The machine goes.", SIGTERM)

            training.work(go)

    with pytest.raises(Stopped):
        run_grid(done.grid, tmp_path / "spot", Vanishing(), url=URL)
    shutil.rmtree(tmp_path / "spot")
    plan, names = run_grid(done.grid, tmp_path / "next", reported=False, url=URL)
    assert names == ["train tiny-seed3", *["evaluate toy-s into logs/bare/toy-s"] * 2]  # Before it and after it.
    first = json.loads(next(content for key, content in s3.written if key == MARKER))
    assert [record["step"] for record in first["manifest"]["checkpoints"]] == [1]
    assert adapters(plan.runs) == adapters(done.plan.runs)
    assert answers(plan.logs) == answers(done.plan.logs)
    states = {key.split("/")[5] for key in s3.objects if "/.trainer/" in key}
    assert states == {"checkpoint-2"}  # The state that the run goes on from, the newest alone.


def test_run_that_is_further_here_stays_and_one_that_is_further_there_is_fetched(
    done: Done, s3: FakeS3, tmp_path: Path
) -> None:
    s3.objects |= done.objects
    out = Path(shutil.copytree(done.plan.out, tmp_path / "out"))
    plan, run = plan_grid(done.grid, out), out / "runs" / "tiny-seed3"
    assert fetch(opened(), plan) == 0
    whole = read_manifest(run)
    write_manifest(run, whole.model_copy(update={"checkpoints": whole.checkpoints[:1], "resume_step": 1}))
    shutil.rmtree(run / "checkpoint-2")
    assert fetch(opened(), plan) == len([path for path in done.objects if "seed3/checkpoint-2/" in path])
    assert read_manifest(run) == whole
    assert not (out / ".fetched").exists()
    behind = json.loads(done.objects[MARKER])
    behind["manifest"] |= {"checkpoints": behind["manifest"]["checkpoints"][:1], "resume_step": 1}
    s3.objects[MARKER] = json.dumps(behind).encode()
    fetch(opened(), plan)
    assert read_manifest(run) == whole
    other = whole.checkpoints[0].model_copy(update={"adapter_sha256": "f" * 64})
    write_manifest(run, whole.model_copy(update={"checkpoints": [other]}))
    with pytest.raises(UserError, match=r"were both trained, and their checkpoints at step 1 differ"):
        fetch(opened(), plan)


def cut(objects: dict[str, bytes]) -> None:
    objects[ADAPTER] = objects[ADAPTER][:-1] + bytes([objects[ADAPTER][-1] ^ 1])


def lose(objects: dict[str, bytes]) -> None:
    del objects[ADAPTER]


def tear(objects: dict[str, bytes]) -> None:
    objects[MARKER] = objects[MARKER][:50]


def name_elsewhere(objects: dict[str, bytes]) -> None:
    objects["dose/toy/stored/runs/../../../tiny.json"] = objects[MARKER]


def point_elsewhere(objects: dict[str, bytes]) -> None:
    objects[MARKER] = objects[MARKER].replace(b"runs/tiny-seed3/checkpoint-2/a", b"runs/tiny-seed3/../../../../a")


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (cut, r"checkpoint-2/adapter_model\.safetensors is not what was put there: .* remove .*seed3\.json: what it"),
        (lose, r"An object of runs/tiny-seed3 is gone from s3://studies/dose/toy .*Put it back, or remove"),
        (tear, r"stored/runs/tiny-seed3\.json is damaged .* Remove it"),
        (name_elsewhere, r"stored/runs/\.\./\.\./\.\./tiny\.json is none of the grid's markers"),
        (point_elsewhere, r"tiny-seed3\.json names the file 'runs/tiny-seed3/\.\./.* which is none of"),
    ],
)
def test_altered_store_is_refused_by_name_and_nothing_of_it_is_used(
    done: Done, s3: FakeS3, tmp_path: Path, fault: Callable[[dict[str, bytes]], None], said: str
) -> None:
    s3.objects |= done.objects
    fault(s3.objects)
    with pytest.raises(StoreError, match=said):
        fetch(opened(), plan_grid(done.grid, tmp_path / "out"))
    assert not list((tmp_path / "out").glob("runs/tiny-seed3/checkpoint-*"))
    assert not (tmp_path / "out" / "runs" / "tiny-seed3" / MANIFEST).exists()
    s3.objects = {key: content for key, content in done.objects.items() if key != MARKER}
    fetch(opened(), plan_grid(done.grid, tmp_path / "out"))
    assert len(list((tmp_path / "out").rglob("*.eval"))) == len(done.objects_of("logs"))
    assert not list((tmp_path / "out" / "runs").glob(f"*/{MANIFEST}"))


def test_damaged_manifest_here_keeps_nothing_else_from_being_fetched(done: Done, s3: FakeS3, tmp_path: Path) -> None:
    s3.objects |= done.objects
    manifest = tmp_path / "out" / "runs" / "tiny-seed3" / MANIFEST
    manifest.parent.mkdir(parents=True)
    manifest.write_text("{")
    fetched = fetch(opened(), plan_grid(done.grid, tmp_path / "out"))
    assert fetched == len(list((tmp_path / "out").rglob("*.eval"))) == len(done.objects_of("logs")) > 0
    assert [path.name for path in manifest.parent.iterdir()] == [MANIFEST]
    assert manifest.read_text() == "{"


def test_copy_that_fails_stops_no_work_is_named_and_is_made_up_for(done: Done, s3: FakeS3, tmp_path: Path) -> None:
    out = Path(shutil.copytree(done.plan.out, tmp_path / "out"))
    s3.refused.add("seed3/checkpoint-2")
    with pytest.raises(UserError, match=r"the others stand.*runs/tiny-seed3 was not copied: Could not copy .*Denied"):
        run_grid(done.grid, out, reported=False, url=URL)
    assert list(opened().markers) == [key.removeprefix("dose/toy/") for key in sorted(done.objects_of("logs"))]
    warned: list[str] = []
    plan = plan_grid(done.grid, out)
    with Copying(plan, opened(), warned.append) as copies:
        while not warned:
            copies.soon()
        s3.refused.clear()
    assert copies.failures == []
    assert len(warned) == 1
    assert "It is here still, and copying it is tried again." in warned[0]
    assert opened().markers["runs/tiny-seed3"].manifest == read_manifest(plan.runs / "tiny-seed3")


def test_run_that_is_saved_while_it_is_copied_gets_no_marker_yet_and_no_warning(
    done: Done, s3: FakeS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = Path(shutil.copytree(done.plan.out, tmp_path / "out"))
    (piece, *_) = copying.pieces(plan_grid(done.grid, out), {}, {}, reported=False)
    store = opened()
    assert not store.put(piece, out, lambda: False)
    assert ADAPTER in s3.objects
    assert opened().markers == {}
    assert store.put(piece, out, lambda: True)
    # A state that was there when the run was looked at, and is gone with the save that came after.
    stale = replace(piece, files={**piece.files, "runs/tiny-seed3/.trainer/checkpoint-1/state.pt": (1, 1)})
    monkeypatch.setattr(copying, "pieces", lambda *arguments, **options: [stale])
    assert Copying(plan_grid(done.grid, out), opened(), lambda warning: None).copy(reported=False) == []


def test_place_that_cannot_be_used_is_said_before_anything_is_begun(
    done: Done, s3: FakeS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"

    def said(url: str) -> str:
        ran = CliRunner().invoke(cli, ["grid", str(done.grid), "--out", str(out), "--store", url])
        assert ran.exit_code == 1
        assert not list(out.glob("runs/*"))
        return " ".join(ran.output.split())

    assert "Could not read s3://nobody/x: NoSuchBucket. Is there such a bucket?" in said("s3://nobody/x")
    assert "names no bucket" in said("s3://")
    assert "'bucket/prefix' is no store" in said("bucket/prefix")
    assert "Protocol not known: s4" in said("s4://bucket/prefix")
    s3.objects |= {"dose/toy/stored/grid.json": b'{"name": "another"}'}
    assert "holds the work of the grid another, and this is tiny" in said(URL)
    s3.refused.add("grid.json")
    assert "Could not write stored/grid.json to s3://studies/new: AccessDenied" in said("s3://studies/new")
    other = grid_file(tmp_path, {"seed": [3]}, more={"learning_rate": 1e-3})
    s3.objects |= done.objects
    with pytest.raises(UserError, match=r"s3://.*/runs/tiny-seed3 holds a run of another recipe: learning_rate differ"):
        fetch(opened(), plan_grid(other, out))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    assert "Unable to locate credentials" in said(URL)
    monkeypatch.delitem(registry, "s3")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    assert "pip install 'em-tasks[s3]'" in said("s3://studies/again")


def test_folder_and_memory_are_stores_too(done: Done, tmp_path: Path) -> None:
    for url in (f"file://{tmp_path}/there", "MEMORY://there/toy"):
        with Copying(done.plan, opened(url), lambda warning: None) as copies:
            pass
        assert copies.failures == []
        plan = plan_grid(done.grid, tmp_path / url[:4])
        assert fetch(opened(url), plan) > 10
        assert adapters(plan.runs) == adapters(done.plan.runs)


def test_percent_signs_of_a_file_url_stand_for_characters(tmp_path: Path) -> None:
    (tmp_path / "a b").mkdir()
    store = Store(f"file://{tmp_path}/a%20b")
    store.claim("toy")
    assert [path.name for path in (tmp_path / "a b" / "stored").iterdir()] == ["grid.json"]
    assert [path.name for path in tmp_path.iterdir()] == ["a b"]
    store.open("toy")


def test_report_reads_logs_behind_a_url(done: Done, s3: FakeS3, monkeypatch: pytest.MonkeyPatch) -> None:
    s3.objects |= done.objects
    with report._here((f"{URL}/logs", str(done.plan.logs))) as (fetched, here):
        assert answers(fetched) == answers(done.plan.logs)
        assert here == done.plan.logs
    assert not fetched.exists()
    nothing = CliRunner().invoke(cli, ["report", f"{URL}/none"])
    assert "There is no log below s3://studies/dose/toy/none" in " ".join(nothing.output.split())
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "unknown")
    refused = CliRunner().invoke(cli, ["report", "s3://studies/dose"])
    assert "could not be read: InvalidAccessKeyId" in " ".join(refused.output.split())
