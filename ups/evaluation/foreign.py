"""Scoring a run on every trajectory of a file that it was not trained on. B batch, T frames, X all axes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from ups.core.errors import DataError, UserError
from ups.core.types import FieldSpec, Predictor
from ups.data.pdebench import FileInfo, inspect
from ups.data.task import Trajectories, load_file
from ups.evaluation.evaluate import Report, batches, evaluate, plain_cells
from ups.evaluation.searched import with_search
from ups.inference.surrogate import Surrogate

_CLOSE = 1e-4
"""relative; spacings are read from float32 coordinates"""


def evaluate_file(
    predictor: Predictor, path: str | Path, trained_on: Sequence[str] = (), cache: Path | None = None
) -> Report:
    """All metrics on every trajectory of a file of the same family, at the run's own frame and cell spacing.

    Frames are compared where both fall on the same time. A second row, `zero_shot`, has the file's own cells
    where those are finer and the predictor can be put on another grid. Where no stride of the file gives the run's
    cells, the file's own cells are the only row.

    Args:
        trained_on: the run's own files; that `path` is one of them is flagged.
        cache: folder of reduced arrays, see `load_task`.

    Raises:
        DataError: the file cannot be read, or is of another equation or another size of domain.
        UserError: neither frame spacing is a multiple of the other, or the predictor does not fit the file's grid.
    """
    spec = predictor.spec
    info = inspect(path)
    own, wanted = ([each.dx * cells for cells in each.cells] for each in (info, spec))
    if len(own) != len(wanted) or not all(map(_close, own, wanted)):
        raise DataError(f"{path}: the domain must have the run's length {_by_axis(wanted)}, got {_by_axis(own)}")
    time_stride, run_steps = _coinciding(info, spec.dt)
    stride = _whole(spec.dx / info.dx)
    fits = stride is not None and all(cells % stride == 0 for cells in info.cells)

    main = _row(predictor, info, stride if fits and stride else 1, time_stride, run_steps, cache, examine=True)
    if any(Path(name).resolve() == Path(path).resolve() for name in trained_on):
        note = "trajectories that the run was trained on are among these; its test split is scored without --data"
        main = replace(main, notes=(note, *main.notes))
    if not fits or stride == 1:
        return main
    try:
        return replace(main, zero_shot=_row(predictor, info, 1, time_stride, run_steps, cache))
    except _NoSuchGrid as error:
        return replace(main, notes=(*main.notes, f"no row at the file's own {_by_axis(info.cells)} cells: {error}"))


class EveryNth(nn.Module):
    """A predictor seen after every `steps` of its own steps."""

    def __init__(self, predictor: Predictor, steps: int) -> None:
        super().__init__()
        self.predictor = predictor
        self.steps = steps
        self.spec = replace(predictor.spec, dt=predictor.spec.dt * steps)
        self.has_latent = getattr(predictor, "has_latent", False)
        self.num_parameters = getattr(predictor, "num_parameters", 0)
        self.search = getattr(predictor, "search", None)
        self.inference = getattr(predictor, "inference", None)

    def rollout(self, initial_BXC: Tensor, parameters_BP: Tensor, steps: int, mode: str | None = None) -> Tensor:
        """Every `self.steps`-th of the predictor's own frames, (B, steps, X, C)."""
        own_BTXC = self.predictor.rollout(initial_BXC, parameters_BP, steps * self.steps, mode)
        return own_BTXC[:, self.steps - 1 :: self.steps]


def on_cells(predictor: Predictor, cells: tuple[int, ...]) -> Predictor:
    """The predictor on a grid of other numbers of cells.

    Raises:
        UserError: it has a fixed grid.
    """
    if predictor.spec.cells == cells:
        return predictor
    with_cells = getattr(predictor, "with_cells", None)
    if with_cells is None:
        raise _NoSuchGrid(f"{type(predictor).__name__} has a fixed grid of {_by_axis(predictor.spec.cells)} cells")
    try:
        return with_cells(cells)
    except UserError as error:
        raise _NoSuchGrid(str(error)) from None


class _NoSuchGrid(UserError):
    pass


def _row(
    predictor: Predictor,
    info: FileInfo,
    stride: int,
    time_stride: int,
    run_steps: int,
    cache: Path | None,
    examine: bool = False,
) -> Report:
    """Args: `examine`: also say what the predictor's search at test time brings, if it has one."""
    run = predictor.spec
    predictor = on_cells(predictor, tuple(cells // stride for cells in info.cells))
    spec, trajectories = load_file(info.path, run.equation, space_stride=stride, time_stride=time_stride, cache=cache)
    training = _distinct(getattr(predictor, "training_parameters", ()))
    extrapolates = bool(training) and any(
        not any(all(map(_close, here, seen)) for seen in training) for here in _distinct(trajectories.parameters_SP)
    )
    notes = list(info.notes)
    if extrapolates:
        notes.append(_extrapolation(spec, trajectories, training))
    if spec.cells != run.cells:
        notes.append(f"zero-shot: {_by_axis(spec.cells)} cells, the run was trained on {_by_axis(run.cells)}")
    normalizer = getattr(predictor, "normalizer", None)
    if run_steps > 1:
        notes.append(f"one step of this table is {run_steps} steps of the run: the file's frames are that far apart")
        if getattr(predictor, "search", None) is not None:
            notes.append("search: not looked into, the file has no truth for the run's steps between its frames")
        predictor = EveryNth(predictor, run_steps)
    protocol = {
        "files": [str(info.path)],
        "split": None,
        "space_stride": stride,
        "time_stride": time_stride,
        "run_dt": run.dt,
        "run_cells": plain_cells(run.cells),
        "training_parameters": [dict(zip(spec.parameter_names, each, strict=True)) for each in training],
        "extrapolation": extrapolates,
    }
    report = evaluate(predictor, batches(trajectories), protocol, normalizer)
    if examine and isinstance(predictor, Surrogate):
        report = with_search(report, predictor, trajectories)
    return replace(report, notes=(*notes, *report.notes))


def _extrapolation(spec: FieldSpec, trajectories: Trajectories, training: list[tuple[float, ...]]) -> str:
    """That the file has other parameters than the run has seen, and which."""
    names = spec.parameter_names
    here = _distinct(trajectories.parameters_SP)
    # what is the same everywhere is not what the predictor has to extrapolate in
    varying = [place for place in range(len(names)) if len({each[place] for each in [*here, *training]}) > 1]
    words = ["; ".join(_values(each, varying) for each in side) for side in (here, training)]
    if len(varying) == 1:
        words = [text.replace(";", ",") for text in words]
    verb = "is" if len(varying) == 1 and len(here) == 1 else "are"
    return f"extrapolation: {', '.join(names[p] for p in varying)} {verb} {words[0]}, the run was trained on {words[1]}"


def _values(parameters: tuple[float, ...], places: list[int]) -> str:
    return ", ".join(f"{parameters[place]:g}" for place in places)


def _distinct(parameters_SP: Iterable[Sequence[float]]) -> list[tuple[float, ...]]:
    """Each set of parameters once, ascending, without the rounding of float32."""
    return sorted({tuple(float(f"{value:.6g}") for value in each) for each in parameters_SP})


def _coinciding(info: FileInfo, run_dt: float) -> tuple[int, int]:
    """(stride over the file's frames, steps of the run) between two frames that both have."""
    stride, steps = _whole(run_dt / info.dt), _whole(info.dt / run_dt)
    if stride is None and steps is None:
        raise UserError(
            f"{info.path}: the frame spacing must be a multiple or a divisor of the run's dt {run_dt:g}, "
            f"got {info.dt:g}"
        )
    return stride or 1, steps or 1


def _close(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=_CLOSE)


def _by_axis(numbers: Sequence[float]) -> str:
    return " x ".join(f"{number:.6g}" for number in numbers)


def _whole(ratio: float) -> int | None:
    """The ratio as a whole number of at least 1, None if it is not one."""
    nearest = round(ratio)
    return nearest if nearest >= 1 and _close(ratio, nearest) else None
