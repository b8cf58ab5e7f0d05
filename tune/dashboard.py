"""optuna-dashboard on a study, on the loopback address: a page to look at, from which nothing can be changed.

The page offers to delete studies, to edit notes and to tell trials, and optuna-dashboard has no switch for that. Here
every request that is not a plain read is refused, and what it reads from cannot be written. It reads a journal without
its lock, so that a search that runs does not notice; what a search appends is there with the next look.

What optuna-dashboard 0.21 would show of a study is put right on the way: it knows nothing of the constraints of
Optuna 5, by which an exploded trial is no best one, and nothing of trials on their way but their parameters.
"""

from __future__ import annotations

import errno
import json
import sys
import threading
from collections.abc import Callable, Container, Iterable, Sequence
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any, NoReturn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState

from tune.scheduler import Milestone, MilestoneAsha
from tune.storage import PLAN, Reader, reading
from tune.study import load_plan, record_of
from ups.core.errors import UserError

HOST = "127.0.0.1"
PORT = 8080
"""the first one that is tried where none is given"""
PORTS = 100
"""so many are tried"""
_SHOWN_CONSTRAINTS = "constraints"
"""where optuna-dashboard looks for the excesses of a trial over its limits, as a list"""

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def serve(folder: Path, port: int | None = None, say: Callable[[str], None] = print) -> None:
    """Serve a study until Ctrl-C; `say` is given the address as soon as the page is there.

    Args:
        port: None is the first free one from `PORT` on.

    Raises:
        UserError: the folder holds no study, its storage cannot be read, or the port is taken.
    """
    plan = load_plan(folder)
    resources = plan.config.resources
    rungs = MilestoneAsha(plan.config.strategy.milestones, plan.config.strategy.keep).milestones
    with reading(folder, resources.study_storage, resources.study_name) as reader:
        storage = ShownStorage(reader, rungs, resources.study_name or folder.resolve().name)
        with _bound(_read_only(_page(storage)), port) as server:
            say(f"http://{HOST}:{server.server_port}/dashboard/studies/{storage.study_id}")
            try:
                server.serve_forever()
            except KeyboardInterrupt:
                return


class ShownStorage(BaseStorage):
    """One study of a storage, as it is at each look; nothing can be written to it.

    A trial that has not ended has `state`, `reason` and `milestones` as those have that did.
    """

    def __init__(self, reader: Reader, rungs: Sequence[Milestone], name: str) -> None:
        """
        Args:
            rungs: the search's milestones, by whose index a trial reports its scores.
            name: the study's on the page.
        """
        self._reader = reader
        self._rungs = rungs
        self._name = name
        self._lock = threading.Lock()  # the page asks from several threads, and the trials that it gets are ours alone
        self.study_id = reader.study._study_id

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        self._check(study_id)
        with self._lock:
            is_running = self._reader.look()
            trials = self._reader.study.get_trials(deepcopy=False)
            return [self._shown(each, is_running(each)) for each in trials if states is None or each.state in states]

    def get_trial(self, trial_id: int) -> FrozenTrial:
        for trial in self.get_all_trials(self.study_id):
            if trial._trial_id == trial_id:
                return trial
        raise KeyError(f"no trial has the id {trial_id}")

    def get_best_trial(self, study_id: int) -> FrozenTrial:
        """Of those that hold every constraint, if any does."""
        trials = self.get_all_trials(study_id, states=(TrialState.COMPLETE,))
        valued = [trial for trial in trials if trial.values is not None]
        if not valued:
            raise ValueError("no trial is complete yet")
        feasible = [trial for trial in valued if all(excess <= 0 for excess in trial.constraints.values())]
        sign = -1.0 if self.get_study_directions(study_id)[0] is StudyDirection.MAXIMIZE else 1.0
        return min(feasible or valued, key=lambda trial: sign * trial.values[0])

    def get_all_studies(self) -> list[FrozenStudy]:
        with self._lock:
            found = self._reader.study._storage.get_all_studies()
            study = next(each for each in found if each._study_id == self.study_id)
            return [
                FrozenStudy(
                    study_name=self._name,
                    direction=None,
                    directions=study.directions,
                    # the plan has pages of its own, and study.yaml
                    user_attrs={name: value for name, value in study.user_attrs.items() if name != PLAN},
                    system_attrs=dict(study.system_attrs),
                    study_id=self.study_id,
                )
            ]

    def get_study_id_from_name(self, study_name: str) -> int:
        if study_name != self._name:
            raise KeyError(f"the study is called {self._name}, not {study_name}")
        return self.study_id

    def get_study_name_from_id(self, study_id: int) -> str:
        return self._study(study_id).study_name

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        return self._study(study_id).directions

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        return self._study(study_id).user_attrs

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        return self._study(study_id).system_attrs

    def _study(self, study_id: int) -> FrozenStudy:
        self._check(study_id)
        return self.get_all_studies()[0]

    def _check(self, study_id: int) -> None:
        if study_id != self.study_id:
            raise KeyError(f"no study has the id {study_id}")

    def _shown(self, trial: FrozenTrial, is_running: bool) -> FrozenTrial:
        """A trial of our own: the storage's goes on to change."""
        record = record_of(trial, is_running)
        reached = {
            self._rungs[index].key: score
            for index, score in trial.intermediate_values.items()
            if 0 <= index < len(self._rungs)
        }
        attributes = {
            "state": str(record.state),
            "reason": record.reason,
            "milestones": record.milestones or reached,
            # a score of None in one trial, and the page could not sort by it
            **{name: value for name, value in trial.user_attrs.items() if value is not None},
        }
        constraints = trial.constraints
        return FrozenTrial(
            number=trial.number,
            state=trial.state,
            value=None,
            values=trial.values,
            datetime_start=trial.datetime_start,
            datetime_complete=trial.datetime_complete,
            params=dict(trial.params),
            distributions=dict(trial.distributions),
            user_attrs=attributes,
            system_attrs={**trial.system_attrs, _SHOWN_CONSTRAINTS: list(constraints.values())},
            intermediate_values=dict(trial.intermediate_values),
            trial_id=trial._trial_id,
        )

    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:
        _refuse()

    def delete_study(self, study_id: int) -> None:
        _refuse()

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        _refuse()

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        _refuse()

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        _refuse()

    def set_trial_param(self, trial_id: int, name: str, value: float, distribution: BaseDistribution) -> None:
        _refuse()

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        _refuse()

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        _refuse()

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        _refuse()

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        _refuse()


REFUSAL = "a study is only shown here: it is changed by `ups search`"


def _refuse() -> NoReturn:
    raise RuntimeError(REFUSAL)


def _page(storage: BaseStorage) -> Application:
    from optuna_dashboard import wsgi

    return wsgi(storage)


def _read_only(application: Application) -> Application:
    """The application without what changes a study: all that it reads is asked for with GET."""

    def answer(environment: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        if environment["REQUEST_METHOD"] in ("GET", "HEAD"):
            return application(environment, start)
        start("403 Forbidden", [("Content-Type", "application/json")])
        return [json.dumps({"reason": REFUSAL}).encode()]

    return answer


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True  # a browser that keeps its connection does not hold up the end


class _Handler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing: the page asks every few seconds."""


def _bound(application: Application, port: int | None) -> WSGIServer:
    """
    Raises:
        UserError: the port, or each that was tried, is taken or not allowed.
    """
    ports = range(PORT, PORT + PORTS) if port is None else (port,)
    for each in ports:
        try:
            return make_server(HOST, each, application, server_class=_Server, handler_class=_Handler)
        except OSError as error:
            if port is None and error.errno == errno.EADDRINUSE:
                continue
            raise UserError(f"--port: {each} cannot be listened on ({error.strerror}); take another one") from None
    raise UserError(f"the ports {ports[0]} to {ports[-1]} are all taken; name a free one with --port")


def announce(address: str) -> None:
    """The address on stdout, for whoever reads it from there, and how to end it on stderr."""
    print(address, flush=True)
    print("Ctrl-C ends it; the study is only shown, nothing there changes it", file=sys.stderr, flush=True)
