"""Imports go one way. Each line may use what stands below it; siblings on one line do not see each other."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = [
    ["tune"],
    ["ups.__main__"],
    ["ups.cli"],
    ["ups.run", "ups.config_import"],
    ["ups.config"],
    ["ups.training"],
    ["ups.evaluation"],
    ["ups.inference"],
    ["ups.models", "ups.data", "ups.baselines", "ups.pages"],
    ["ups.core"],
]
FILES = sorted([*(ROOT / "ups").rglob("*.py"), *(ROOT / "tune").rglob("*.py")])


def layer_of(module: str) -> tuple[int, str] | None:
    for level, names in enumerate(LAYERS):
        for name in names:
            if module == name or module.startswith(name + "."):
                return level, name
    return None


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down(path: Path) -> None:
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    own = layer_of(module)
    for name in imports(path):
        if module.startswith("ups"):
            assert name.split(".")[0] not in ("ray", "optuna", "tune"), f"{module} imports {name}"
        other = layer_of(name)
        if own is None or other is None or other[1] == own[1]:
            continue
        assert other[0] > own[0], f"{module} imports {name}, which is not below it"


def test_every_module_has_a_place() -> None:
    outside = [path for path in FILES if path.name != "__init__.py" and layer_of(module_name(path)) is None]
    assert outside == []


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)
