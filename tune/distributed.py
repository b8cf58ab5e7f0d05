"""One run on several workers: Ray Train starts the ranks, and each of them runs `ups.run.train_run`.

Weights and progress go where they go in a run of one process; from Ray Train the run needs its processes alone: a group
that meets, is watched, and is started again where a worker died. Then it goes on from the run's own checkpoint.
"""

from __future__ import annotations

import tune.ray_env  # isort: skip  # noqa: F401  (before Ray)

import contextlib
import json
import os
import shutil
import time
import traceback
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import ray
import torch
from ray._raylet import PlacementGroupID
from ray.core.generated import gcs_pb2
from ray.exceptions import GetTimeoutError, RayActorError
from ray.train import FailureConfig, ScalingConfig
from ray.train import RunConfig as TrainRunConfig
from ray.train.torch import TorchConfig
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.constants import get_env_vars_to_propagate
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2.torch.torch_trainer import TorchTrainer
from ray.util.placement_group import PlacementGroup, remove_placement_group

from tune.placement import Demand
from ups.config import RunConfig
from ups.core.errors import UserError
from ups.core.ranks import RankLost, Ranks
from ups.core.runtime import pick_device, write_atomic
from ups.core.types import Progress, Report, RunResult
from ups.run import check_folder, train_run

WORKER_DEATHS = 3
"""restarts of a group of which a worker died, each from the run's last checkpoint"""
LOOK_SECONDS = 0.2
"""between two looks at what the workers have written"""
ABORT_SECONDS = 10.0
"""how long a controller may take to end"""
PATIENCE_SECONDS = 24 * 3600
"""how long ranks wait for one that lives: rank 0 may evaluate, or fit a search, while they do. A dead one is noticed
at once by its connection"""
_CONTROLLER = "controller"


@dataclass(frozen=True)
class Workers:
    """The processes of one run."""

    count: int
    each: Demand = field(default_factory=lambda: Demand(1))
    """what one of them takes; its CPUs are its threads where the config leaves them open"""


def train_distributed(
    config: RunConfig,
    out: Path,
    report: Report,
    *,
    workers: Workers,
    resume: bool,
    evaluate_on: Literal["test", "none"] = "test",
    store: Path | str | None = None,
    busy: Literal["wait", "raise"] = "wait",
) -> RunResult:
    """`ups.run.train_run` on several workers of the Ray that this process is connected to; they must see `out`.

    What they write into `progress.jsonl` is reported here. What `report` raises ends the workers and passes through;
    so does an interrupt. What the ranks raise together is raised here.

    Raises:
        ray.train.TrainingFailedError: workers died `WORKER_DEATHS` + 1 times.
    """
    check_folder(config, out, resume)
    release_workers(out)
    folder, controller = _exchange(out), f"controller-{uuid.uuid4().hex}"
    # before there is one: whatever it reserves is found by its name, also what nobody was told of any more
    write_atomic(folder / _CONTROLLER, controller.encode())
    request = {
        "config": config.model_dump(mode="json"),
        "out": str(out.absolute()),
        "directory": os.getcwd(),
        "threads": workers.each.cpus,
        "settings": {"evaluate_on": evaluate_on, "busy": busy, "store": None if store is None else str(store)},
    }
    trainer = _Trainer(
        _Lines(out / "progress.jsonl", report).look,
        lambda: release_workers(out),
        controller,
        _rank,
        train_loop_config=request,
        torch_config=TorchConfig(
            # what ranks tell each other is on the CPU; gradients are where the model is
            backend="cpu:gloo,cuda:nccl" if workers.each.gpus else "gloo",
            timeout_s=PATIENCE_SECONDS,
        ),
        scaling_config=ScalingConfig(
            num_workers=workers.count, use_gpu=workers.each.gpus > 0, resources_per_worker=workers.each.bundle()
        ),
        run_config=TrainRunConfig(
            name=folder.name,
            storage_path=str(folder.parent),
            failure_config=FailureConfig(max_failures=WORKER_DEATHS),
        ),
    )
    try:
        fitted: Any = trainer.fit()
        result, failure = fitted.return_value
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if failure is not None:
        raise failure
    return result


def release_workers(out: Path) -> None:
    """Give back what the workers of a run hold whose driver was killed: Ray keeps it until the whole search ends.

    (Ray Train has a process for that, which asks the dashboard; and the dashboard need not run.)
    """
    folder = _exchange(out)
    with contextlib.suppress(FileNotFoundError):
        _remove_reservations((folder / _CONTROLLER).read_text())
    shutil.rmtree(folder, ignore_errors=True)


def _remove_reservations(controller: str) -> None:
    """Of a controller, which is ended first: one that lives may be about to make another."""
    with contextlib.suppress(ValueError):  # none of this name lives
        ray.kill(ray.get_actor(controller))
    found = [key for key, each in ray._private.state.actors().items() if each["Name"] == controller]
    if not found:
        return
    deadline = time.monotonic() + ABORT_SECONDS
    while (
        any(ray._private.state.actors(key).get("State", "DEAD") != "DEAD" for key in found)
        and time.monotonic() < deadline
    ):
        time.sleep(LOOK_SECONDS)
    time.sleep(LOOK_SECONDS)  # it is called dead a moment before its process is
    table: Any = gcs_pb2.PlacementGroupTableData  # type: ignore[attr-defined]  # generated
    for content in ray._private.state.state._connect_and_get_accessor().get_placement_group_table():
        group = table.FromString(content)
        if group.creator_actor_id.hex() in found and group.state != table.REMOVED:
            remove_placement_group(PlacementGroup(PlacementGroupID(group.placement_group_id)))


def workers_of_this_machine(count: int, config: RunConfig) -> Workers:
    """`count` workers that share its CPUs, with a GPU each where the config runs on GPUs.

    Raises:
        UserError: there are fewer GPUs.
    """
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    gpus = 1 if pick_device(config.runtime.device).type == "cuda" else 0
    if gpus and count > torch.cuda.device_count():
        raise UserError(
            f"--workers: at most {torch.cuda.device_count()}, one for each GPU of this machine, got {count}; "
            "take fewer, or runtime.device=cpu"
        )
    return Workers(count, Demand(config.runtime.threads or max(1, cpus // count), gpus))


def _exchange(out: Path) -> Path:
    """What Ray Train and the workers of a run leave for its driver; beside the run, which has its own contents."""
    out = out.absolute()
    return out.with_name(f".{out.name}.workers")


def _rank(request: dict[str, Any]) -> tuple[RunResult | None, Exception | None]:
    """The program of every worker: the result, or what all ranks raised. Anything else is a worker that died."""
    os.chdir(request["directory"])  # data files are relative to where the run was started
    torch.set_num_threads(request["threads"])
    ranks, out, settings = Ranks.of_process_group(), Path(request["out"]), request["settings"]
    try:
        # its driver has made sure that a run in the folder is this one: a group that is started again goes on with it
        result = train_run(
            RunConfig.parse(request["config"]),
            out,
            resume=True,
            evaluate_on=settings["evaluate_on"],
            store=settings["store"],
            busy=settings["busy"],
            ranks=ranks,
        )
    except RankLost:
        raise
    except Exception as error:
        if error is not ranks.raised:
            raise
        error.add_note(traceback.format_exc())
        return None, error
    return result, None


class _Trainer(TorchTrainer):
    """Ray's, watched by the process that started it, and ended by what the watch raises.

    It goes without two helper processes of every run: the one for Ray's data sets, of which there are none, and the
    one of `release_workers`.
    """

    def __init__(
        self, watch: Callable[[], None], release: Callable[[], None], name: str, *given: Any, **settings: Any
    ) -> None:
        """`name` is the controller's."""
        super().__init__(*given, **settings)
        self._watch, self._release, self._name = watch, release, name

    def _create_default_callbacks(self) -> list[Any]:
        made = super()._create_default_callbacks()
        return [each for each in made if not isinstance(each, DatasetsCallback | PlacementGroupCleanerCallback)]

    def _initialize_and_run_controller(self, **given: Any) -> Any:
        here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
        environment = {"env_vars": get_env_vars_to_propagate()}
        remote: Any = ray.remote(num_cpus=0, label_selector=here, runtime_env=environment)(TrainController)
        controller = remote.options(name=self._name).remote(**given)
        end = controller.run.remote()
        try:
            while not ray.wait([end], timeout=LOOK_SECONDS)[0]:
                self._watch()
            ray.get(end)
            self._watch()
            return ray.get(controller.get_result.remote())
        except BaseException:
            # it takes its workers along and its reservation back; a controller that is busy is killed
            with contextlib.suppress(RayActorError):
                try:
                    ray.get(controller.abort.remote(), timeout=ABORT_SECONDS)
                except GetTimeoutError:
                    ray.kill(controller)
            self._release()
            raise


class _Lines:
    """Reports what is appended to a `progress.jsonl` from now on."""

    def __init__(self, path: Path, report: Report) -> None:
        self._path, self._report = path, report
        # half a line that a kill has left is cut when the run is taken up again
        self._place = path.read_bytes().rfind(b"\n") + 1 if path.is_file() else 0

    def look(self) -> None:
        for line in self._new():
            self._report(Progress(**json.loads(line)))

    def _new(self) -> Iterator[bytes]:
        if not self._path.is_file():
            return
        with open(self._path, "rb") as stream:
            stream.seek(self._place)
            for line in stream:
                if not line.endswith(b"\n"):  # still being written
                    return
                self._place += len(line)
                yield line
