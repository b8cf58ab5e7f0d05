"""Every shipped config loads, builds and trains two steps; every shipped space can be searched."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from tune.checks import load_plan_from_space, random_value
from ups.config import RunConfig, diff, find_shipped, load_config
from ups.core.errors import ConfigError
from ups.core.physics import EQUATIONS
from ups.core.types import FieldSpec, Progress, Status
from ups.data.generators import generate
from ups.data.normalization import Normalizer
from ups.run import count_parameters, train_run

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
GOLDENS = sorted((ROOT / "configs" / "golden").glob("*.yaml"))
SPACES = sorted((ROOT / "search_spaces").glob("*.yaml"))
NATIVE = {
    "burgers": (1024,),
    "advection": (1024,),
    "reaction_diffusion": (1024,),
    "navier_stokes": (64, 64),
    "darcy": (64, 64),
}
"""cells of the files that the headers of the configs say how to make"""
LARGE = ("burgers1d_upt68m",)

# what each variant may change against burgers1d: ablations stay comparable
SIZES = ("latent.", "encoder.", "operator.", "decoder.")
GROUPS = {
    "token count": {"latent.tokens"},
    "latent width": {"latent.dim"},
    "inverse losses": {
        f"stages.operator.losses.inverse_{side}.{key}"
        for side in ("encoding", "decoding")
        for key in ("weight", "warmup")
    },
    "diffusion": {f"stages.diff_residual.{key}" for key in ("epochs", "optimizer.lr", "optimizer.weight_decay")},
    "candidates of the search at test time": {"ttc.enabled", "ttc.candidates", "ttc.noise_std", "ttc.source"},
    "its beam": {"ttc.beam_width", "ttc.horizon", "ttc.steps", "ttc.rounds"},
    "its budget": {"ttc.max_evaluations"},
}
"""what a group that trains such a surrogate has to choose, and the paths that choose it"""
NEEDS_RUN = ("burgers1d_ttc",)
MAY_CHANGE = {
    "burgers1d_anypoint": ("decoder.",),
    "burgers1d_diffusion": (
        *("latent.", "corrector.", "inference.temperature"),
        *("stages.operator.losses.inverse_", "stages.diff_residual.", "stages.consistency_distill."),
    ),
    "burgers1d_fno": ("baseline.", "baseline"),
    # a config of another system, with the horizon that it had
    "burgers1d_golden_v2": (
        "task.time_stride",
        "task.frames",
        *SIZES[:1],
        "operator.",
        "stages.",
        "ttc.",
        "runtime.",
        "logging.",
    ),
    "burgers1d_latent": ("inference.rollout", "stages.operator.losses."),
    "burgers1d_multi_nu": ("task.files",),
    "burgers1d_nu0.001": ("task.files",),
    "burgers1d_small": ("latent.", "operator.", "stages.operator.epochs", "stages.operator.windows_per_trajectory"),
    "burgers1d_unet": ("baseline.", "baseline"),
    "burgers1d_upt8m": (*SIZES, "stages.operator.optimizer.lr", "runtime.precision"),
    "burgers1d_upt17m": (*SIZES, "stages.operator.optimizer.lr", "runtime.precision"),
    "burgers1d_upt68m": (*SIZES, "stages.operator.optimizer.lr", "runtime.precision", "task.space_stride"),
}


def spec_of(config: RunConfig) -> FieldSpec:
    """The fields of the config's task, without its files."""
    equation = EQUATIONS[config.task.equation]
    native = (64,) if config.task.files == ("data/demo.h5",) else NATIVE[equation.name]
    cells = tuple(number // config.task.space_stride for number in native)
    return FieldSpec(equation.name, cells, len(equation.channels), 1.0, 0.05, equation.parameters, equation.boundary)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_declares_its_changes(path: Path) -> None:
    config = load_config(path)
    assert path.read_text().startswith("# ")
    if not path.stem.startswith("burgers1d_"):
        return
    assert path.stem in MAY_CHANGE, f"say in MAY_CHANGE what {path.name} changes"
    changed = diff(load_config(ROOT / "configs" / "burgers1d.yaml"), config)
    assert changed, f"{path.name} changes nothing"
    assert [leaf for leaf in changed if not leaf.startswith(MAY_CHANGE[path.stem])] == []
    # a variant includes its base instead of copying it
    assert yaml.safe_load(path.read_text())["include"] == "burgers1d.yaml"


@pytest.mark.parametrize("path", GOLDENS, ids=lambda path: path.stem)
def test_a_golden_was_confirmed_and_says_how(path: Path) -> None:
    config = load_config(path)
    story = config.provenance
    assert story is not None
    assert story["confirmed"] is True
    assert story["improvement"]["interval"][0] > 0
    assert len(story["seeds"]) >= 3
    assert config.runtime.seed == story["expected"]["seed"] == story["seeds"][0]
    assert config.task == load_config(path.stem).task
    assert count_parameters(config, spec_of(config)) > 0


@pytest.mark.parametrize(
    ("name", "millions"), [("burgers1d_upt8m", 8.1), ("burgers1d_upt17m", 17.0), ("burgers1d_upt68m", 68.3)]
)
def test_a_size_is_what_its_config_says(name: str, millions: float) -> None:
    config = load_config(name)
    assert round(count_parameters(config, spec_of(config)) / 1e6, 1) == millions
    assert f"# {millions} M weights" in find_shipped(name, "configs").read_text()


@pytest.fixture(scope="module")
def tiny_file(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Eight trajectories of an equation, at the cells that the shipped configs expect."""
    folder = tmp_path_factory.mktemp("tiny")

    def make(equation: str, cells: int, nu: float | None = None) -> Path:
        out = folder / f"{equation}_{cells}_{nu}.h5"
        if not out.exists():
            frames = None if EQUATIONS[equation].steady else 14
            parameters = None if nu is None else {"nu": nu}
            # short steps: two updates are no worse than the mean of the field
            dt = None if frames is None else 0.01
            generate(equation, out, parameters=parameters, trajectories=8, cells=cells, frames=frames, dt=dt)
        return out

    return make


@pytest.mark.parametrize("path", [path for path in CONFIGS if path.stem not in LARGE], ids=lambda path: path.stem)
def test_a_config_trains_two_steps(path: Path, tiny_file: Callable[..., Path], tmp_path: Path) -> None:
    config = load_config(path)
    equation, cells = config.task.equation, spec_of(config).cells[0] * config.task.space_stride
    nus: tuple[float | None, ...] = (None,)
    if len(config.task.files) > 1:
        nus = (0.001, 0.01, 0.1)
    elif equation == "reaction_diffusion":
        nus = (0.001,)  # at its usual 0.5 the field is flat at once, and nothing beats its mean
    stages = [name for name, stage in config.stages if stage.epochs > 0]
    values = {
        "task.files": [str(tiny_file(equation, cells, nu)) for nu in nus],
        "task.time_stride": 1,
        "task.frames": None if EQUATIONS[equation].steady else config.stages.operator.losses.rollout.horizon + 2,
        "task.train": 4,
        "task.validation": 2,
        "task.test": 2,
        "runtime.threads": 1,
        "runtime.device": "cpu",
    }
    for name in stages:
        each = {"epochs": 1, "windows_per_trajectory": 1, "batch_size": 2 * len(nus), "validations": 1}
        values |= {f"stages.{name}.{key}": value for key, value in each.items()}
    steps: dict[str, int] = {}

    def note(progress: Progress) -> None:
        steps[progress.stage] = progress.step

    result = train_run(config.override(values), tmp_path / "run", note, evaluate_on="none")
    assert (result.status, result.reason) == (Status.COMPLETE, "")
    assert list(result.stages) == list(steps) == stages
    assert steps["operator"] == 2
    assert all(taken >= 2 for taken in steps.values())


@pytest.mark.parametrize("name", LARGE)
def test_a_large_config_trains_two_steps_without_memory(name: str) -> None:
    config = load_config(name)
    spec = spec_of(config)
    with torch.device("meta"):
        surrogate = config.build(spec, Normalizer((0.0,), (1.0,)), ((0.01,),)).train()
        optimizer = torch.optim.AdamW(surrogate.parameters())
        for _ in range(2):
            predicted = surrogate.unroll(torch.empty(2, *spec.cells, 1), torch.empty(2, 1), 2)
            assert predicted.shape == (2, 2, *spec.cells, 1)
            predicted.square().mean().backward()
            assert all(parameter.grad is not None for parameter in surrogate.parameters())
            optimizer.step()


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
def test_a_space_can_be_searched(path: Path) -> None:
    """`load_plan_from_space` checks it; most of what it proposes must fit the task's grid."""
    run = ROOT / "configs" / "burgers1d_diffusion.yaml" if path.stem in NEEDS_RUN else None
    plan = load_plan_from_space(str(path), base_file=run)
    random = np.random.default_rng(0)
    spec = spec_of(plan.base)
    fitting = 0
    for _ in range(20):
        params = plan.space.draw(lambda name, domain: random_value(domain, random))
        try:
            fitting += count_parameters(plan.space.config_of(params), spec) > 0
        except ValueError:
            continue
    assert fitting >= 15


def test_the_small_space_has_the_names_of_the_large_one() -> None:
    large, small = (load_plan_from_space(name).config for name in ("burgers1d", "burgers1d_small"))
    assert list(large.space) == list(small.space)
    assert {name: domain.when for name, domain in large.space.items()} == {
        name: domain.when for name, domain in small.space.items()
    }
    assert large.strategy.milestones == small.strategy.milestones


def test_a_space_on_a_run_takes_what_the_run_has() -> None:
    full, operator = (
        load_plan_from_space("burgers1d_ttc", base_file=ROOT / "configs" / f"{name}.yaml").config.space
        for name in ("burgers1d_diffusion", "burgers1d_small")
    )
    assert all(name.startswith("ttc.") for name in full)
    assert set(full) - set(operator) == {"ttc.source", "ttc.source_scale"}
    with pytest.raises(ConfigError, match=r"base: required key is missing; .* --run"):
        load_plan_from_space("burgers1d_ttc")
    with pytest.raises(ConfigError, match="a baseline has no latent"):
        load_plan_from_space("burgers1d_ttc", base_file=ROOT / "configs" / "burgers1d_fno.yaml")


@pytest.mark.parametrize("group", GROUPS)
def test_the_space_has_every_group_of_knobs(group: str) -> None:
    space = load_plan_from_space("burgers1d").config.space
    assert GROUPS[group] <= set(space)
    for name in GROUPS[group]:  # a knob has something to choose
        assert len(space[name].ends) > 1


def test_the_space_has_the_knobs_of_the_later_stages() -> None:
    names = set(load_plan_from_space("burgers1d").config.space)
    for stage in ("diff_residual", "consistency_distill"):
        assert {f"stages.{stage}.{key}" for key in ("epochs", "optimizer.lr", "optimizer.weight_decay")} <= names
    assert {"stages.diff_residual.tau_sampling", "operator.kind", "operator.depth", "operator.depths"} <= names
