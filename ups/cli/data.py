"""`ups data`: generate and inspect files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ups.cli.bars import counting
from ups.core.errors import UserError

data_app = typer.Typer(help="Generate and inspect PDEBench-format files.")

# in the order of `ups.core.physics`; the generators, which know the numbers, would make `--help` wait for numba:
# a test holds these lines to them
_NAMES = "burgers, advection, reaction_diffusion, diffusion_reaction, navier_stokes or darcy."
_TRAJECTORIES = "How many. [1024; diffusion_reaction 256; navier_stokes 256; or all of --initial]"
_CELLS = (
    "Cells stored along each axis. [1024; diffusion_reaction 64; navier_stokes 64; darcy 64; or those of --initial]"
)
_FRAMES = (
    "Frames, the initial one included. [201; reaction_diffusion 101; diffusion_reaction 21; navier_stokes 21; darcy 2]"
)
_DT = "Time between two frames. [0.01; diffusion_reaction 0.25; navier_stokes 0.1; darcy 1]"
_NU = "Viscosity, of burgers nu/pi. [0.01; reaction_diffusion 0.5; navier_stokes 0.002]"
_BETA = "advection: the speed; darcy: the source. [0.4; darcy 1]"

_Parameter = float | None


@data_app.command("generate")
def data_generate(
    equation: Annotated[str, typer.Argument(help=_NAMES, metavar="EQUATION")],
    out: Annotated[Path, typer.Option(help="HDF5 file to write.")],
    nu: Annotated[_Parameter, typer.Option(help=_NU)] = None,
    beta: Annotated[_Parameter, typer.Option(help=_BETA)] = None,
    rho: Annotated[_Parameter, typer.Option(help="reaction_diffusion: the rate of the reaction. [1]")] = None,
    du: Annotated[_Parameter, typer.Option(help="diffusion_reaction: diffusivity of u. [0.001]")] = None,
    dv: Annotated[_Parameter, typer.Option(help="diffusion_reaction: diffusivity of v. [0.005]")] = None,
    k: Annotated[_Parameter, typer.Option(help="diffusion_reaction: the constant k. [0.005]")] = None,
    trajectories: Annotated[int | None, typer.Option(help=_TRAJECTORIES)] = None,
    cells: Annotated[int | None, typer.Option(help=_CELLS)] = None,
    frames: Annotated[int | None, typer.Option(help=_FRAMES)] = None,
    dt: Annotated[float | None, typer.Option(help=_DT)] = None,
    oversample: Annotated[int, typer.Option(help="Solve on that many times the cells and stride.")] = 1,
    seed: Annotated[int, typer.Option(help="Draws the initial fields, darcy's coefficients.")] = 0,
    initial: Annotated[Path | None, typer.Option(help="Evolve the first frames of this file.")] = None,
) -> None:
    """Generate trajectories in PDEBench's layout.

    Example: ups data generate burgers --nu 0.01 --trajectories 64 --cells 256 --out data/burgers.h5
    """
    from ups.data.generators import generate

    given = {"nu": nu, "beta": beta, "rho": rho, "du": du, "dv": dv, "k": k}
    parameters = _parameters(equation, given)
    with counting(f"{equation} to {out}", "trajectories") as count:
        generate(
            equation,
            out,
            parameters=parameters,
            trajectories=trajectories,
            cells=cells,
            frames=frames,
            dt=dt,
            seed=seed,
            initial=initial,
            oversample=oversample,
            on_progress=count,
        )
    print(out)


@data_app.command("inspect")
def data_inspect(file: Annotated[Path, typer.Argument(help="An HDF5 file.", metavar="FILE")]) -> None:
    """Say what a file holds, without reading its fields.

    Example: ups data inspect data/burgers.h5
    """
    from ups.core.physics import EQUATIONS
    from ups.data.pdebench import inspect

    info = inspect(file)
    known = EQUATIONS.get(info.equation or "")
    steady = known is not None and known.steady
    facts = {
        "file": info.path,
        "layout": info.family,
        "equation": info.equation or "not stated",
        "trajectories": info.trajectories,
        "frames": "2, the given coefficient and the solution" if steady else f"{info.frames}, dt {info.dt:g}",
        "cells": f"{' x '.join(map(str, info.cells))}, length {info.length:g}",
        "boundary": info.boundary or (f"{known.boundary}, the equation's" if known else "not stated"),
        "channels": f"{info.channels}: {', '.join(known.channels)}" if known else info.channels,
        "parameters": ", ".join(f"{name} {value:g}" for name, value in info.parameters.items()) or "none",
    }
    for name, value in facts.items():
        print(f"{name:<13}{value}")
    for note in info.notes:
        print(f"{'note':<13}{note}")


def _parameters(equation: str, given: dict[str, float | None]) -> dict[str, float]:
    """The equation's own parameters among the options; those not given are left out.

    Raises:
        UserError: unknown equation, or the parameter of another one.
    """
    from ups.core.physics import EQUATIONS

    if equation not in EQUATIONS:
        raise UserError(f"EQUATION: must be one of {', '.join(EQUATIONS)}, got {equation!r}")
    own = EQUATIONS[equation].parameters
    wanted = {name: value for name, value in given.items() if value is not None}
    for name in wanted:
        if name not in own:
            options = ", ".join(f"--{each}" for each in own)
            plural = "parameter is" if len(own) == 1 else "parameters are"
            raise UserError(f"--{name}: {equation} has no {name}, its {plural} {options}")
    return wanted
