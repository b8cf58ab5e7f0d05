"""Every code block of the README and of docs/: Python is executed, YAML goes through its schema, commands are parsed by
the real command line, and those of the tutorial are run, on data that is small."""

from __future__ import annotations

import json
import re
import shlex
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pytest
import typer
import yaml

from tune.checks import load_plan_from_space
from tune.cli import app
from tune.space import SearchConfig
from ups.cli.terminal import run_app
from ups.config import RunConfig, find_shipped, load_config, load_search_config, parse_overrides
from ups.core.errors import ConfigError
from ups.data.pdebench import inspect
from ups.inference.search_config import SearchConfig as SearchAtTestTime

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
DOCUMENTS = [README, *sorted((ROOT / "docs").glob("*.md"))]
OUTPUT_ONLY = {"README.md": 1}
"""blocks that show what a program printed, the only ones that nothing can be asked of"""
_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^(?P=indent)```$", re.DOTALL | re.MULTILINE)
_NAME = re.compile(r"# (\S+\.yaml)$")


class Block(NamedTuple):
    document: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.document.name}:{self.line}"

    @property
    def commands(self) -> list[list[str]]:
        lines = [shlex.split(line, comments=True) for line in self.text.splitlines()]
        return [words for words in lines if words]

    @property
    def name(self) -> str:
        """What the first line of a YAML block calls its file."""
        found = _NAME.match(self.text.splitlines()[0])
        return found[1] if found else f"block{self.line}.yaml"


def blocks_of(document: Path) -> list[Block]:
    text = document.read_text()
    return [
        Block(document, text.count("\n", 0, found.start()) + 1, found["language"], textwrap.dedent(found["text"]))
        for found in _FENCE.finditer(text)
    ]


BLOCKS = [block for document in DOCUMENTS for block in blocks_of(document)]


def of(language: str) -> list[Block]:
    return [block for block in BLOCKS if block.language == language]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_block_can_be_asked(document: Path) -> None:
    blocks = blocks_of(document)
    assert 2 * len(blocks) == sum("```" in line for line in document.read_text().splitlines())
    assert {block.language for block in blocks} <= {"python", "yaml", "sh", "text"}
    assert sum(block.language == "text" for block in blocks) == OUTPUT_ONLY.get(document.name, 0)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    text = document.read_text()
    for target, _, heading in (link.partition("#") for link in re.findall(r"\]\(([^)\s]+)\)", text)):
        path = (document.parent / target) if target else document
        assert path.exists(), target
        if heading:
            headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
            assert heading in [re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, burgers_file: Path) -> Path:
    """A working directory with an array of one's own, and the files that the README writes."""
    with h5py.File(burgers_file) as file:
        np.save(tmp_path / "fields.npy", file["tensor"][:])
    for block in of("yaml"):
        if block.document == README:
            write(block, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(block: Block, folder: Path) -> Path:
    path = folder / block.name
    path.parent.mkdir(exist_ok=True)
    path.write_text(block.text)
    return path


@pytest.mark.parametrize("block", of("python"), ids=str)
def test_python_runs(block: Block, folder: Path) -> None:
    exec(compile(block.text, str(block), "exec"), {})
    assert inspect(folder / "data" / "mine.h5").shape == (24, 9, 32, 1)


@pytest.mark.parametrize("block", of("yaml"), ids=str)
def test_yaml_is_what_its_schema_takes(block: Block, folder: Path) -> None:
    data = yaml.safe_load(block.text)
    path = write(block, folder)
    if data.keys() <= {"include", *RunConfig.model_fields}:
        load_config(path)
    elif data.keys() <= SearchConfig.model_fields.keys():
        # a part of a space: the rest is as small as it can be
        rest = {"base": "configs/mine.yaml", "space": {"latent.dim": {"choice": [8, 16]}}}
        path.write_text(yaml.safe_dump({**rest, **data}))
        load_plan_from_space(str(path))
    else:
        assert data.keys() <= SearchAtTestTime.model_fields.keys(), data.keys()
        load_search_config(path)


def parse(words: list[str]) -> tuple[str, dict[str, Any]]:
    """(command, its parameters) as the command line understands `ups` with these words; nothing is run."""
    command: Any = typer.main.get_command(app)
    names = []
    while hasattr(command, "commands"):
        names.append(words[0])
        command, words = command.commands[words[0]], words[1:]
    context = command.make_context(" ".join(names), list(words))
    return context.info_name, context.params


def check_ups(words: list[str], known: set[str]) -> None:
    """A command is parsed; a config or a space that can be found is loaded with its overrides; folders and files that
    it reads were named before, or are shipped."""
    command, given = parse(words)
    overrides = parse_overrides(given.get("overrides") or [])
    if command in ("train", "config show"):
        name = given["config"]
        if name not in known:
            load_config(name, overrides)
    elif command == "search":
        if given["run"] is None and given["space"] not in known:
            load_plan_from_space(given["space"], overrides)
        else:
            assert given["space"] in known or find_shipped(given["space"], "search_spaces")
    for name in ("run", "study", "folder", "file", "place"):
        if isinstance(given.get(name), str | Path):
            assert str(given[name]) in known, f"{name} {given[name]} comes from nowhere"
    for path in (*(given.get("runs") or ()), *(given.get("beside") or ())):
        assert str(path) in known, path
    if given.get("ttc"):
        assert find_shipped(given["ttc"], "configs/ttc")
    for name in ("out", "json"):
        if isinstance(given.get(name), str | Path):
            known.add(str(given[name]))


def test_commands_are_understood(folder: Path) -> None:
    known: set[str] = {"data/mine.h5", "runs"}
    # the README comes first: what it makes may be used in docs/
    for block in BLOCKS:
        if block.language == "yaml":
            write(block, folder)
        for words in block.commands if block.language == "sh" else ():
            program, *rest = words
            if program == "ups":
                check_ups(rest, known)
            else:
                assert program == "make", f"{block}: nobody checks {program}"
                assert re.search(rf"^{rest[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), rest


@pytest.mark.parametrize(
    "words",
    [
        "search burgers1d --trails 3",
        "train burgers1d latent.tokns=3",
        "evaluate runs/nowhere",
        "serch demo",
        "train gone",
    ],
)
def test_a_wrong_command_is_noticed(words: str, folder: Path) -> None:
    with pytest.raises((typer.exceptions.TyperException, ConfigError, AssertionError, KeyError)):
        check_ups(words.split(), set())


SMALLER = {
    "train: 160, validation: 32, test: 32}": "train: 16, validation: 4, test: 4}\nstages: {operator: {epochs: 4}}",
    "ups search space.yaml --out runs/mine": "ups search space.yaml --out runs/mine --trials 3 --quiet",
    "ups promote runs/mine --out golden.yaml": "ups promote runs/mine --out golden.yaml --top 1 --seeds 2 --force",
}
"""of the tutorial -> what is run instead: seconds, and a golden whether it found something or not"""


@pytest.mark.usefixtures("ray_session")
def test_the_tutorial_leads_to_a_golden(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    left = set(SMALLER)

    def smaller(text: str) -> str:
        for old in list(left):
            if old in text:
                left.discard(old)
                text = text.replace(old, SMALLER[old])
        return text

    run: dict[str, Callable[[Block], object]] = {
        "python": lambda block: exec(block.text, {}),
        "yaml": lambda block: write(block, folder),
        "sh": lambda block: [ups(words) for words in block.commands],
    }

    def ups(words: list[str]) -> None:
        assert run_app(app, words[1:]) == 0, (words, capfd.readouterr().err)

    for block in blocks_of(ROOT / "docs" / "tutorial.md"):
        run[block.language](block._replace(text=smaller(block.text)))
    assert not left, "the tutorial has other words now"
    golden = load_config("golden.yaml")
    assert golden.provenance is not None
    scores = json.loads(Path("scores.json").read_text())["metrics"]
    assert scores["rollout_nrmse"] == pytest.approx(golden.provenance["expected"]["test_rollout_nrmse"], rel=1e-6)
    assert Path("runs/mine/report.html").read_text().startswith("<!doctype html>")
    assert Path("rollout.png").read_bytes().startswith(b"\x89PNG")
    assert "has the smallest error" in Path("compare.html").read_text()


def test_the_tutorial_is_ten_lines_and_three_commands() -> None:
    blocks = blocks_of(ROOT / "docs" / "tutorial.md")
    upto = next(at for at, block in enumerate(blocks) if block.language == "sh")
    lines = [line for block in blocks[:upto] for line in block.text.splitlines() if line and not line.startswith("#")]
    assert len(lines) == 10
    assert [words[1] for words in blocks[upto].commands] == ["search", "promote", "report"]
