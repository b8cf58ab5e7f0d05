"""`ups data`: every equation is generated and inspected, and refusals are one line."""

import subprocess
import sys

import numpy as np
import pytest
import typer

from ups.cli import app, run_app
from ups.core.physics import EQUATIONS
from ups.data.generators import GENERATORS
from ups.data.pdebench import inspect, write_fields


@pytest.fixture
def ups(capsys):
    """Run a command; gives (exit code, stdout, stderr)."""

    def run(*args):
        code = run_app(app, [str(arg) for arg in args])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.mark.parametrize("equation", EQUATIONS)
def test_generate_and_inspect(ups, tmp_path, equation):
    known = EQUATIONS[equation]
    options = [word for name in known.parameters for word in (f"--{name}", "0.25")]
    times = [] if known.steady else ["--frames", "3", "--dt", "0.01"]
    path = tmp_path / "new" / "a.h5"
    code, out, err = ups(
        *("data", "generate", equation, *options, *times),
        *("--trajectories", 2, "--cells", 8, "--seed", 5, "--out", path),
    )
    assert (code, out.strip()) == (0, str(path)), err
    assert inspect(path).parameters == pytest.approx(dict.fromkeys(known.parameters, 0.25))
    code, out, _ = ups("data", "inspect", path)
    assert code == 0
    told = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert told["equation"] == equation
    assert told["channels"] == f"{len(known.channels)}: {', '.join(known.channels)}"
    assert told["boundary"].startswith(known.boundary)
    assert told["cells"].startswith(" x ".join(["8"] * known.axes))
    assert told["frames"] == ("2, the given coefficient and the solution" if known.steady else "3, dt 0.01")
    assert told["parameters"] == ", ".join(f"{name} 0.25" for name in inspect(path).parameters)


def test_inspect_tells_what_was_assumed(ups, tmp_path):
    path = write_fields(tmp_path / "a.h5", "diffusion_reaction", np.ones((1, 2, 4, 4, 2)), boundary="periodic", k=1.0)
    code, out, _ = ups("data", "inspect", path)
    assert code == 0
    assert "no attribute du, dv: PDEBench's du 0.001, dv 0.005 assumed" in out
    assert "boundary     periodic\n" in out


def test_first_frames_of_another_file(ups, tmp_path):
    source, path = tmp_path / "a.h5", tmp_path / "b.h5"
    small = ("--trajectories", 2, "--cells", 8)
    assert ups("data", "generate", "darcy", *small, "--out", source)[0] == 0
    assert ups("data", "generate", "darcy", "--initial", source, "--beta", 2, "--out", path)[0] == 0
    assert inspect(path).shape == inspect(source).shape


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["burgers", "--beta", "1"], ["--beta: burgers has no beta, its parameter is --nu"]),
        (["darcy", "--nu", "1"], ["--nu: darcy has no nu, its parameter is --beta"]),
        (["reaction_diffusion", "--du", "1"], ["--du", "its parameters are --nu, --rho"]),
        (["diffusion_reaction", "--k", "0"], ["k: must be a positive number, got 0.0"]),
        (["heat"], ["EQUATION: must be one of burgers, advection, reaction_diffusion", "'heat'"]),
        (["darcy", "--frames", "5"], ["frames: darcy is steady"]),
        (["navier_stokes", "--initial", "nowhere.h5"], ["nowhere.h5: no such file"]),
    ],
)
def test_refusals_are_one_line_and_write_nothing(ups, tmp_path, args, words):
    code, _, err = ups("data", "generate", *args, "--out", tmp_path / "a.h5")
    last = err.splitlines()[-1]
    assert code == 2
    assert last.startswith("ups: ")
    assert all(word in last for word in words), err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def helps() -> dict[str, str]:
    command = typer.main.get_command(app).commands["data"].commands["generate"]
    return {parameter.name: parameter.help for parameter in command.params}


@pytest.mark.parametrize("option", ["trajectories", "cells", "frames", "dt"])
def test_the_help_tells_each_equations_default(option):
    first = getattr(GENERATORS["burgers"], option)
    others = {name: getattr(generator, option) for name, generator in GENERATORS.items()}
    told = "; ".join([f"{first:g}", *(f"{name} {value:g}" for name, value in others.items() if value != first)])
    assert f"[{told}" in helps()[option]


@pytest.mark.parametrize("name", sorted({name for known in EQUATIONS.values() for name in known.parameters}))
def test_the_help_tells_each_parameters_default(name):
    own = {each: generator.parameters[name] for each, generator in GENERATORS.items() if name in generator.parameters}
    first, *others = own.items()
    told = "; ".join([f"{first[1]:g}", *(f"{each} {value:g}" for each, value in others)])
    assert helps()[name].endswith(f"[{told}]")


def test_the_help_names_every_equation():
    assert all(name in helps()["equation"] for name in EQUATIONS)


def test_help_does_not_wait_for_the_compiler():
    code = "import ups.cli, sys; sys.exit('numba' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
