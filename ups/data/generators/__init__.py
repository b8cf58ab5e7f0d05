"""Generators of PDEBench-format data: random initial conditions, solvers, files."""

from ups.data.generators.advection import solve_advection
from ups.data.generators.burgers import solve_burgers, solve_cole_hopf
from ups.data.generators.generate import GENERATORS, generate

__all__ = ["GENERATORS", "generate", "solve_advection", "solve_burgers", "solve_cole_hopf"]
