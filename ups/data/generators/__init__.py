"""Generators of PDEBench-format data: random initial conditions, solvers, files."""

from ups.data.generators.advection import solve_advection
from ups.data.generators.burgers import solve_burgers, solve_cole_hopf
from ups.data.generators.darcy import solve_darcy
from ups.data.generators.diffusion_reaction import solve_diffusion_reaction
from ups.data.generators.generate import GENERATORS, generate
from ups.data.generators.navier_stokes import solve_navier_stokes
from ups.data.generators.reaction_diffusion import solve_reaction_diffusion

__all__ = [
    "GENERATORS",
    "generate",
    "solve_advection",
    "solve_burgers",
    "solve_cole_hopf",
    "solve_darcy",
    "solve_diffusion_reaction",
    "solve_navier_stokes",
    "solve_reaction_diffusion",
]
