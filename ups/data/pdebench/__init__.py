"""Reading and writing files in PDEBench's layouts; every reader ends in one canonical order, (S, T, X.., C)."""

from ups.data.pdebench.families import FAMILY_OF
from ups.data.pdebench.family import Array32, FileInfo
from ups.data.pdebench.reading import check_reduction, inspect, read_reduced, read_trajectories
from ups.data.pdebench.writing import new_file, write_fields, write_tensor_file

__all__ = [
    "FAMILY_OF",
    "Array32",
    "FileInfo",
    "check_reduction",
    "inspect",
    "new_file",
    "read_reduced",
    "read_trajectories",
    "write_fields",
    "write_tensor_file",
]
