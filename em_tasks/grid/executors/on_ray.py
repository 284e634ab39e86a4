"""Units as tasks of a Ray cluster, placed by GPUs and fractions of one; a unit whose node dies is run again elsewhere.

Ray places, retries and tells of failures; the folder that all nodes share carries everything else.
"""

import os
import socket
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import Any

from em_tasks.grid.executors.protocol import Ended, More
from em_tasks.grid.places import Place, look_around
from em_tasks.grid.units import GPU_STEPS, Unit, do
from em_tasks.plugins.errors import UserError
from em_tasks.sweep.pool import PATIENCE, signals_stop

RETRIES = 5
"""Times a unit is run again whose process or node was lost. What it had saved is not done again."""


LAST_PORT = 2**16 - 1
GIVE = "Give HOST:PORT of a head that was started with `ray start --head`, such as --ray 10.0.0.5:6379."


class OnRay:
    """A Ray cluster.

    Args:
        address: `HOST:PORT` of its head.

    Raises:
        UserError: Ray is not installed, nothing answers there, or it runs another version of Ray or Python.
    """

    def __init__(self, address: str) -> None:
        try:
            import ray
        except ImportError:
            raise UserError("--ray needs the extra ray: pip install 'em-tasks[ray]'.") from None
        refuse_no_address(address)
        _refuse_silence(address)
        self._ray: Any = ray
        # The driver's own environment decides nothing about the workers, and what they print is in their units' files.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            ray.init(address=address, log_to_driver=False, configure_logging=False)
        except (RuntimeError, ConnectionError, ValueError) as error:
            reason = " ".join(str(error).split())[:400]
            if "AuthToken" in f"{error} {error.__cause__}":
                reason = (
                    "it asks for a token, and none or another was given. Set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN "
                    "to what ~/.ray/auth_token on its head holds; or start all nodes with RAY_AUTH_MODE=disabled."
                )
            raise UserError(f"The Ray cluster at {address} cannot be used: {reason}") from None

    @property
    def width(self) -> int:
        """The cluster's GPUs, or its CPUs where it has none."""
        resources = self._ray.cluster_resources()
        return max(1, int(resources.get("GPU", 0) or resources.get("CPU", 1)))

    def places(self, sign: Path) -> list[Place] | None:
        """Every node that has a CPU or a GPU to give, as a task on it says."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        nodes = [node for node in self._ray.nodes() if node["Alive"] and {"CPU", "GPU"} & set(node["Resources"])]
        look = self._ray.remote(num_cpus=0, max_calls=1)(_look_around)
        looks = []
        for node in nodes:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            looks.append(look.options(scheduling_strategy=there).remote(sign, int(node["Resources"].get("GPU", 0))))
        try:
            return list(self._ray.get(looks))
        except self._ray.exceptions.RayError as error:
            raise UserError(
                "A node of the Ray cluster cannot run this project; every node needs it installed, at one version: "
                + " ".join(str(error).split())[-400:]
            ) from None

    def run(self, units: Sequence[Unit], folder: Path, more: More) -> None:
        """Hands every unit to Ray, which has them done as resources get free."""
        gpus = bool(self._ray.cluster_resources().get("GPU"))
        running: dict[Any, Unit] = {}

        def hand_over(coming: Sequence[Unit]) -> None:
            for unit in coming:
                # Each in a process of its own: what one leaves behind in torch or in a GPU is gone for the next.
                task = self._ray.remote(max_calls=1)(do).options(
                    name=unit.name,
                    num_cpus=unit.threads,
                    num_gpus=ceil(round(unit.gpu * GPU_STEPS, 6)) / GPU_STEPS if gpus else 0,
                    max_retries=RETRIES,
                )
                running[task.remote(unit, folder)] = unit

        with signals_stop(), self._ended(running):
            hand_over(units)
            while True:
                ready: list[Any] = []
                if running:
                    ready, _ = self._ray.wait(list(running), num_returns=len(running), timeout=0.0)
                    ready = ready or self._ray.wait(list(running), timeout=1.0)[0]
                coming = more([Ended(running.pop(task), self._failure(task)) for task in ready])
                hand_over(coming or ())
                if coming is None and not running:
                    return

    def _failure(self, task: Any) -> str | None:
        try:
            failure: str | None = self._ray.get(task)
        except self._ray.exceptions.RayError as error:
            return f"Ray gave up on it after {RETRIES} tries: {' '.join(str(error).split())[:400]}"
        return failure

    @contextmanager
    def _ended(self, running: dict[Any, Unit]) -> Any:
        """Ends what still runs if the driver stops: first by asking, as Ctrl-C does, so that training saves."""
        try:
            yield
        finally:
            for force in (False, True):
                for task in running:
                    self._ray.cancel(task, force=force)
                if running and not force:
                    self._ray.wait(list(running), num_returns=len(running), timeout=PATIENCE)

    def close(self) -> None:
        """Leaves the cluster."""
        self._ray.shutdown()


def _look_around(sign: Path, gpus: int) -> Place:
    """The node that this is, with as many GPUs as Ray has there: a task that asked for none may see none, or all."""
    import ray

    if not os.environ.get("CUDA_VISIBLE_DEVICES"):
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    place = look_around(sign)
    name = f"{place.name} ({ray.util.get_node_ip_address()})"
    return replace(place, name=name, gpus=dict(list(place.gpus.items())[:gpus]))


def refuse_no_address(address: str) -> None:
    """Refuses what has not the form of an address.

    Raises:
        UserError: It has not.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or int(port) > LAST_PORT:
        raise UserError(f"--ray {address!r} is no address of a Ray cluster. {GIVE}")


def _refuse_silence(address: str) -> None:
    """Refuses an address at which nothing listens, for which Ray itself would wait long."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, UnicodeError) as error:
        raise UserError(f"There is no Ray cluster at {address!r} ({error}). {GIVE}") from None
