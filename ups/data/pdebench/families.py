"""The families of files that can be read, and how a file is recognised as one of them."""

from __future__ import annotations

from pathlib import Path

import h5py

from ups.core.errors import DataError
from ups.data.pdebench.darcy import DARCY
from ups.data.pdebench.family import Family
from ups.data.pdebench.groups import GROUPS, group_names
from ups.data.pdebench.incompressible import INCOMPRESSIBLE
from ups.data.pdebench.tensor import TENSOR

FAMILIES: dict[str, Family] = {each.name: each for each in (TENSOR, DARCY, GROUPS, INCOMPRESSIBLE)}

FAMILY_OF: dict[str, Family] = {
    "burgers": TENSOR,
    "advection": TENSOR,
    "reaction_diffusion": TENSOR,
    "diffusion_reaction": GROUPS,
    "navier_stokes": INCOMPRESSIBLE,
    "darcy": DARCY,
}
"""the layout that PDEBench gives each equation"""


def recognise(path: Path, file: h5py.File) -> Family:
    """The family of an open file.

    Raises:
        DataError: none of them.
    """
    names = set(file)
    if "tensor" in names:
        return DARCY if "nu" in names else TENSOR
    if "velocity" in names:
        return INCOMPRESSIBLE
    if group_names(file):
        return GROUPS
    if "density" in names:
        raise DataError(f"{path}: compressible flow (dataset 'density') is not supported yet")
    if {"t0_fields", "t1_fields"} & names:
        raise DataError(f"{path}: The Well (groups 't0_fields', 't1_fields') is not supported yet")
    listed = ", ".join(sorted(names)[:6]) or "nothing"
    raise DataError(
        f"{path}: dataset 'tensor' or 'velocity', or groups '0000', '0001', .. expected, the file holds {listed}"
    )
