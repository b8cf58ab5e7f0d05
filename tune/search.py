"""One search: an embedded Ray, Tune as the pool of workers, and the driver that decides."""

from __future__ import annotations

import tune.ray_env  # isort: skip  # noqa: F401  (before Ray)

import contextlib
import logging
import os
import shutil
import signal
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import ray
from ray import tune as ray_tune
from ray._common.constants import HEAD_NODE_RESOURCE_NAME
from ray.tune.experiment import Trial as RayTrial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.stopper import Stopper

from tune.cluster import Pool, check_shared, dashboard_address, grows, joined, live_nodes, this_machine
from tune.driver import Driver
from tune.ended_trials import EndedTrials
from tune.fit import fit_to_data, keys_on
from tune.housekeeping import Housekeeper
from tune.lost_nodes import LostNodes
from tune.objectives import Reference, best_of, reference_of
from tune.patience import StorageRefused
from tune.pbt import space_of_workers
from tune.pinning import pin_study
from tune.placement import GIB
from tune.running import NoView, View
from tune.space import Resources, SearchConfig
from tune.study import OpenStudy, Plan, StudyFolder, TrialRecord, diverged_shares, load_study, store_place
from tune.trial import Outcome, run_folder
from tune.verdict import leave_verdict
from tune.worker import Trainer, trial_function
from ups.config import RunConfig
from ups.core.artifacts import ArtifactStore
from ups.core.errors import UserError
from ups.core.objects import StoreUnreachable
from ups.core.remote_store import open_store
from ups.core.tracking import WandbConfig, check_installed
from ups.core.types import Status

WORKER_DEATHS = 3
"""so many deaths of its process, and a trial is FAILED; after those before it goes on from its last checkpoint"""


@dataclass(frozen=True)
class Summary:
    """How a search ended."""

    folder: Path
    records: tuple[TrialRecord, ...]
    wanted: int
    seconds: float
    stop_reason: str | None
    """why it ended before its last trial, if it did"""
    signalled: bool
    config: SearchConfig
    refused: bool = False
    """whether it ended because storage was not to be written"""
    goldens: tuple[str, ...] = ()
    """origins of the trials that train a golden config"""

    @property
    def best(self) -> TrialRecord | None:
        return best_of(self.records, self.config)

    @property
    def base(self) -> TrialRecord | None:
        """Trial 0, if it ran to its end."""
        complete = (record for record in self.records if record.state is Status.COMPLETE)
        return next((record for record in complete if record.number == 0), None)

    @property
    def reference(self) -> Reference | None:
        """What the best trial is measured with."""
        return reference_of(self.records, self.goldens)

    def count(self, state: Status) -> int:
        return sum(record.state is state for record in self.records)

    def explosion_rates(self) -> tuple[float, float] | None:
        """Share of EXPLODED or NOT_FINITE among the sampled trials of the first and of the second half."""
        return diverged_shares(self.records)


def run_search(
    plan: Plan,
    folder: Path,
    *,
    resume: bool = False,
    view: View | None = None,
    trainer: Trainer | None = None,
    address: str | None = None,
    say: Callable[[str], None] | None = None,
) -> Summary:
    """Run a search to its last trial, its time budget, or a signal; then it can be resumed.

    Args:
        trainer: what trains a config; None is `ups.run.train_run`, anything else is not asked for data.
        address: of a cluster that runs already; None is a Ray of this process alone.
        say: is given a line on where the cluster can be watched, if it can.

    Raises:
        UserError: the data cannot be read, the base does not fit it, the folder cannot be taken, the cluster cannot
            be joined, or no trial could ever run there; the store cannot be one; or wandb is asked for and missing.
        StoreUnreachable: the store does not answer.
    """
    check_installed(plan.base.logging.wandb)
    check, keys = (_no_check, keys_on("")) if trainer else fit_to_data(plan)
    start = time.monotonic()
    place = store_place(folder, plan.config)
    store = open_store(place)
    if plan.config.resources.store is not None:
        store.check()
    with pool_of(plan.config.resources, address) as pool, OpenStudy(folder, plan, resume=resume) as study:
        driver = Driver(
            study,
            check=check,
            keys=keys,
            concurrency=min(pool.limit(), plan.config.strategy.trials),
            time_budget=plan.config.budget.seconds,
            view=view or NoView(),
        )
        page = None if address is None else dashboard_address()
        if page is not None and say is not None:
            say(f"the cluster's page: {page}")
        space, limit = space_of_workers(plan), plan.config.budget.trial_seconds
        group = plan.config.resources.study_name or study.folder.name
        function = trial_function(study.folder, place, space, trainer, limit, pool.workers, pool.demand, group)
        driver.show()
        refused = False
        # a made-up trainer leaves neither stages nor checkpoints
        kept = StudyFolder(study.folder, plan.config, plan.base, ())
        keeper = None if trainer else Housekeeper(kept, store, plan.config.resources.disk_bytes)
        with _StopOnSignal(driver) as signals:
            if driver.has_work:
                with _started(pool, plan.config.strategy.trials) if address is None else nullcontext():
                    signals.install()
                    if address is not None:
                        check_shared(study.folder)
                        if isinstance(store, ArtifactStore):
                            store.root.mkdir(parents=True, exist_ok=True)
                            check_shared(store.root, "--store")
                    refused = _run_tune(driver, function, pool, study.folder, keeper, plan.base.logging.wandb)
        if keeper is not None:
            keeper.close()
        if trainer is None and not refused:
            try:
                pin_study(load_study(folder), store)
            except StoreUnreachable as error:
                # the search has ended all the same, and `ups store gc` pins before it collects
                warnings.warn(f"what the study needs is not pinned: {error}", stacklevel=2)
        return Summary(
            folder,
            study.records(searching=False),
            plan.config.strategy.trials,
            time.monotonic() - start,
            driver.stop_reason,
            bool(signals.received),
            plan.config,
            refused,
            plan.goldens,
        )


@contextlib.contextmanager
def pool_of(resources: Resources, address: str | None) -> Iterator[Pool]:
    """Where the trials of a search run; a Ray of this process alone is not started yet.

    Raises:
        UserError: as `joined` and `Pool`.
    """
    with nullcontext() if address is None else joined(address):
        if address is None and not ray.is_initialized():
            node = this_machine(resources)
            yield Pool(resources, lambda: [node], grows=False)
        else:
            yield Pool(resources, live_nodes, grows=grows())


def _started(pool: Pool, trials: int) -> contextlib.AbstractContextManager[None]:
    """The Ray of this process, with room for as many trials as there are going to be."""
    node, cpus = pool.nodes()[0], min(pool.limit(), trials) * pool.workers * pool.demand.cpus
    return embedded_ray(cpus, round(node.gpus), node.memory_gib)


@contextlib.contextmanager
def embedded_ray(cpus: int, gpus: int = 0, memory_gib: float | None = None) -> Iterator[None]:
    """A Ray of this process alone, on the loopback address and quiet; one that is already there is used and kept.

    Raises:
        UserError: it does not start.
    """
    if ray.is_initialized():
        yield
        return
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    # the shortest there is, and not below the study: the sockets in it have paths of at most 107 bytes
    places = [place for place in (tempfile.gettempdir(), "/tmp") if os.access(place, os.W_OK)]
    temporary = tempfile.mkdtemp(prefix="ups-ray-", dir=min(places, key=len))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                ray.init(
                    address="local",
                    num_cpus=cpus,
                    num_gpus=gpus,
                    include_dashboard=False,
                    object_store_memory=100 * 2**20,
                    log_to_driver=False,
                    logging_level=logging.CRITICAL,
                    _memory=None if memory_gib is None else int(memory_gib * GIB),
                    _node_ip_address="127.0.0.1",
                    _temp_dir=temporary,
                    # what every task was and when is kept for a dashboard, by the kilobyte a trial
                    _system_config={"task_events_report_interval_ms": 0},
                )
            except Exception as error:  # that bare is what Ray raises when its processes do not come up in time
                said = (str(error).splitlines() or [type(error).__name__])[0]
                raise UserError(f"Ray does not start here ({said}); see that the machine is not overloaded") from error
        yield
    finally:
        ray.shutdown()
        shutil.rmtree(temporary, ignore_errors=True)


def _resources(pool: Pool) -> ray_tune.PlacementGroupFactory:
    """What the process of a trial has of its own, in Tune's words.

    A trial of several workers only watches them. It must not have a share of a CPU, which would cost a worker a whole
    one; and its place is the head of the cluster, which every Ray has and nobody reclaims.
    """
    alone = pool.workers == 1
    return ray_tune.PlacementGroupFactory([pool.demand.bundle() if alone else {HEAD_NODE_RESOURCE_NAME: 0.001}])


def _run_tune(
    driver: Driver, function: Any, pool: Pool, folder: Path, keeper: Housekeeper | None, wandb: WandbConfig
) -> bool:
    """Run trials until the driver has enough; returns whether storage refused to be written, here or in a worker."""
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    searcher = _Searcher(driver, pool, folder, keeper, tracks=wandb.mode != "off")
    shutil.rmtree(folder / "ray", ignore_errors=True)
    try:
        tuner = ray_tune.Tuner(
            ray_tune.with_resources(function, _resources(pool)),
            tune_config=ray_tune.TuneConfig(
                search_alg=searcher,
                scheduler=_Scheduler(searcher),
                num_samples=-1,
                max_concurrent_trials=driver.wanted,  # not a limit: the searcher asks the pool
                reuse_actors=True,
            ),
            run_config=ray_tune.RunConfig(
                name="ray",
                storage_path=str(folder),
                stop=_DriverStopper(driver),
                failure_config=ray_tune.FailureConfig(max_failures=WORKER_DEATHS - 1),
                callbacks=[LostNodes(), EndedTrials()],
                verbose=0,
            ),
        )
        tuner.fit()
    except StorageRefused as refused:
        searcher.refuse(str(refused))
    finally:
        shutil.rmtree(folder / "ray", ignore_errors=True)
        if pool.workers > 1:
            # Tune does not wait for what it stopped last
            for run in (folder / "runs").glob("[0-9]*"):
                _release_workers(run)
    return searcher.refused


class _DriverSide:
    """Tune pickles what it is given for a restore of its own, which is never used: the driver stays here."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (object, ())


class _Searcher(_DriverSide, Searcher):
    """Asks the driver for trials, and tells it how they ended."""

    def __init__(self, driver: Driver, pool: Pool, study: Path, keeper: Housekeeper | None, *, tracks: bool) -> None:
        """
        Args:
            tracks: whether trials are shown at wandb, until that fails once.
        """
        super().__init__()
        self._keeper, self._tracks = keeper, tracks
        self._driver = driver
        self._numbers: dict[str, int] = {}
        self._pool = pool
        self._study = study
        self.refused = False

    def refuse(self, reason: str) -> None:
        """End the search: storage is not to be written."""
        self.refused = True
        self._driver.stop(reason)

    def suggest(self, trial_id: str) -> Any:
        limit = self._pool.limit()
        self._driver.concurrency = min(limit, self._driver.wanted)
        if len(self._numbers) >= limit and not self._driver.is_over:
            return None
        trial = self._driver.next()
        if trial is None:
            return Searcher.FINISHED if self._driver.is_over else None
        self._numbers[trial_id] = trial.number
        return {"number": trial.number, "params": dict(trial.params), "tracks": self._tracks}

    def progress(self, number: int, report: dict[str, Any]) -> bool:
        """Take in a report of a running trial; True stops it."""
        self._note(report)
        stop = self._driver.progress(number, report)
        if stop and self._tracks:
            leave_verdict(self._study, number, self._driver.pruned(number))
        return stop

    def _note(self, report: Mapping[str, Any]) -> None:
        if "untracked" in report and self._tracks:
            self._tracks = False
            warnings.warn(f"wandb: {report['untracked']}; no further trial is shown there", stacklevel=2)

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        number = self._numbers.pop(trial_id)
        if error:
            # killed for good, it could not give back what its workers held
            _release_workers(run_folder(self._study, number))
        try:
            self._take_in(number, result, error)
        except StorageRefused as refused:  # Tune would take it for a failure of the trial
            self.refuse(str(refused))
        if self._keeper is not None:
            self._keeper.tidy_if_due(self._driver.records, [*self._driver.running.values(), *self._driver.parked])

    def _take_in(self, number: int, result: dict | None, error: bool) -> None:
        driver = self._driver
        self._note(result or {})
        if result is not None and "busy" in result:
            driver.waits(number)
        elif result is not None and "refused" in result:
            # it stays open in the journal; what the others could still do would be refused, too
            self.refuse(result["refused"])
        elif result is not None and "outcome" in result:
            driver.end(number, Outcome.from_json(result["outcome"]))
        elif driver.is_stopped(number):
            driver.end(number, driver.pruned(number))
        elif error:
            driver.end(number, driver.lost(number, f"its process died {WORKER_DEATHS} times"))
        # anything else was interrupted by the end of the search, and stays open in the journal

    def on_trial_result(self, trial_id: str, result: dict) -> None:
        return None

    def save(self, checkpoint_path: str) -> None:
        return None

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("a study resumes from its journal")


def _release_workers(run: Path) -> None:
    from tune.distributed import release_workers

    release_workers(run)


class _Scheduler(_DriverSide, FIFOScheduler):
    """Hands every report to the driver; rungs learn nothing from how a trial ended."""

    def on_trial_result(self, tune_controller: Any, trial: RayTrial, result: dict) -> str:
        try:
            stop = self._searcher.progress(trial.config["number"], result)
        except StorageRefused as refused:
            self._searcher.refuse(str(refused))
            stop = True
        return TrialScheduler.STOP if stop else TrialScheduler.CONTINUE

    def on_trial_complete(self, tune_controller: Any, trial: RayTrial, result: dict) -> None:
        return None

    def __init__(self, searcher: _Searcher) -> None:
        super().__init__()
        self._searcher = searcher


class _DriverStopper(_DriverSide, Stopper):
    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._driver.should_stop()


class _StopOnSignal:
    """A context in which SIGINT and SIGTERM end the search in good order; a second one does so at once."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._before: dict[signal.Signals, Any] = {}
        self.received: list[int] = []

    def __enter__(self) -> Self:
        self._before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
        self.install()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def install(self) -> None:
        """Once more when Ray has started: a handler of its own, below Python's, makes SIGTERM an abort."""
        if not self.received:
            for each in self._before:
                signal.signal(each, self._handle)

    def _handle(self, number: int, frame: Any) -> None:
        self.received.append(number)
        self._driver.stop(f"interrupted by {signal.Signals(number).name}")
        self._restore()

    def _restore(self) -> None:
        for each, before in self._before.items():
            signal.signal(each, before)


def _no_check(config: RunConfig) -> None:
    return None
