"""What a packaged project must not forget."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_package_is_listed_for_the_wheel() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for top in ("ups", "tune")
        for path in (ROOT / top).rglob("__init__.py")
    }
    assert found == {name for name in listed if not name.startswith("ups.shipped")}


def test_every_dependency_is_pinned_and_used() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = {line.split("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    # Optuna imports cmaes for its sampler of that name, and sklearn for the forests of fANOVA
    modules = {
        "pyyaml": "yaml",
        "ray[default,tune,train]": "ray",
        "psycopg[binary]": "psycopg",
        "cmaes": "optuna",
        "scikit-learn": "optuna",
        "pillow": "PIL",
        "optuna-dashboard": "optuna_dashboard",
    }
    sources = "\n".join(path.read_text() for top in ("ups", "tune") for path in (ROOT / top).rglob("*.py"))
    for name in project["dependencies"]:
        assert name.split("[")[0].lower() in pins, f"{name} has no pin"
        module = modules.get(name, name)
        assert f"import {module}" in sources or f"from {module}" in sources, f"{name} is not imported"
