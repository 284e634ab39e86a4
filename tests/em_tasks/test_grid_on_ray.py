"""A toy study on a real Ray cluster of three nodes, one of which is killed in the middle of a unit."""

import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from em_tasks.grid.executors.on_ray import OnRay
from em_tasks.grid.places import refuse_places, sign_left
from em_tasks.plugins.errors import UserError
from em_tasks.sweep.gpus import gpu_memory
from em_tasks.trainers.loop.stopping import Stopped
from em_tasks.trainers.run.manifest import LOCK, MANIFEST, read_manifest
from tests.support.grids import adapters, grid_file, run_grid
from tests.support.processes import children_of
from tests.support.sweeps import answers

pytest.importorskip("ray", reason="needs the extra ray, which is not installed")
LONG = {"epochs": 2, "batch_size": 2, "first_epoch_checkpoints": 1}
"""24 optimizer steps with checkpoints after 12 and 24, so that there is a middle."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Three nodes of one CPU each; the first is the head. The driver's tool tells of a GPU that none of them has."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    tool = tmp_path_factory.mktemp("driver") / "nvidia-smi"
    tool.write_text(
        """#!/bin/sh
        case "$*" in
          *"=index --format"*) echo 0 ;;
          *memory.total*) echo "0, GPU-aa, 80000" ;;
          *) exit 1 ;;
        esac
        """
    )
    tool.chmod(0o755)
    small = {"num_cpus": 1, "num_gpus": 0, "object_store_memory": 10**8}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{tool.parent}{os.pathsep}{os.environ['PATH']}")
        # Ray's workers would let everything else on the machine go first, so that other tests kept them for minutes.
        patch.setenv("RAY_worker_niceness", "0")
        assert gpu_memory() == {"0": 80000 * 2**20}
        nodes = Cluster(initialize_head=True, head_node_args={**small, "include_dashboard": False})
        for _ in range(2):
            nodes.add_node(**small)
    yield nodes
    nodes.shutdown()


class Killer(threading.Thread):
    """Kills the node that trains, once a checkpoint of its run has landed and more are to come."""

    def __init__(self, cluster: Any, runs: Path) -> None:
        super().__init__(daemon=True)
        self.cluster, self.runs = cluster, runs
        self.killed: str | None = None
        self.at = 0

    def run(self) -> None:
        while self.killed is None:
            for node in list(self.cluster.worker_nodes):
                (raylet,) = node.all_processes["raylet"]
                for run in self._trained_by(raylet.process.pid):
                    manifest = read_manifest(run) if (run / MANIFEST).is_file() else None
                    if manifest is not None and manifest.checkpoints and not manifest.finished:
                        self.cluster.remove_node(node, allow_graceful=False)
                        self.killed, self.at = run.name, manifest.checkpoints[-1].step
                        return
            time.sleep(0.02)

    def _trained_by(self, raylet: int) -> list[Path]:
        """The runs whose lock a worker of a node holds open."""
        held = []
        for pid in children_of(raylet):
            for link in Path(f"/proc/{pid}/fd").glob("*"):
                try:
                    file = Path(os.readlink(link))
                except OSError:
                    continue
                if file.name == LOCK and file.parent.parent == self.runs:
                    held.append(file.parent)
        return held


@pytest.mark.slow
def test_node_killed_in_mid_unit_loses_nothing_and_the_result_is_the_serial_one(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("em_tasks.grid.run.LOOK_AGAIN", 600.0)  # No process for what landed while others train.
    grid = grid_file(tmp_path, {"seed": [0, 1]}, rows=24, more=LONG)
    serial, _ = run_grid(grid, tmp_path / "serial", reported=False)
    executor = OnRay(cluster.address)
    try:
        with sign_left(tmp_path) as sign:
            places = executor.places(sign)
        assert places is not None
        assert len(places) == executor.width == 3
        assert [place.gpus for place in places] == [{}, {}, {}]
        refuse_places(places, tmp_path)
        killer = Killer(cluster, tmp_path / "ray" / "runs")
        killer.start()
        plan, names = run_grid(grid, tmp_path / "ray", executor, reported=False)
    finally:
        executor.close()
    assert killer.killed in plan.organisms
    assert (killer.at, read_manifest(plan.runs / killer.killed).planned) == (12, [12, 24])
    assert [name for name in names if name.startswith("train")] == [f"train {name}" for name in plan.organisms]
    assert adapters(plan.runs) == adapters(serial.runs)
    assert answers(plan.logs) == answers(serial.logs)
    assert len(answers(plan.logs)) == 10 * (1 + 2 * 2)


@pytest.mark.slow
def test_sigterm_stops_the_driver_as_it_does_here(cluster: Any, tmp_path: Path) -> None:
    class Stopping:
        """Has the driver told to go once it waits, and waits for its own end."""

        name, gpu, threads, driver = "stopping", 0.0, 1, os.getpid()

        def work(self, say: object) -> list[str]:
            os.kill(self.driver, signal.SIGTERM)
            signal.pause()
            return []

    executor = OnRay(cluster.address)
    try:
        with pytest.raises(Stopped, match="The same command goes on where this stopped: answers") as stopped:
            executor.run([Stopping()], tmp_path, lambda ended: [])
    finally:
        executor.close()
    assert stopped.value.exit_code == 143


@pytest.mark.parametrize("address", ["foo", ":6379", "head:", "head:port", "head:99999"])
def test_address_that_is_none_is_said_with_one_that_would_do(address: str) -> None:
    said = f"--ray {address!r} is no address of a Ray cluster. Give HOST:PORT of a head"
    with pytest.raises(UserError, match=re.escape(said)):
        OnRay(address)


def test_cluster_that_is_not_there_is_said_at_once() -> None:
    began = time.monotonic()
    with pytest.raises(UserError, match=r"There is no Ray cluster at '127\.0\.0\.1:1' .*ray start --head"):
        OnRay("127.0.0.1:1")
    assert time.monotonic() - began < 5


def test_cluster_that_asks_for_a_token_says_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    def refuse(**given: Any) -> None:
        raise ConnectionError("Failed to connect") from RuntimeError("Unauthenticated: RPC error: InvalidAuthToken")

    monkeypatch.setattr(ray, "init", refuse)
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(UserError, match="Set RAY_AUTH_MODE=token"):
        OnRay(f"127.0.0.1:{server.getsockname()[1]}")
