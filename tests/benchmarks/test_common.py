"""Sections of RESULTS.md, numbers for people, and jobs that are not repeated."""

from __future__ import annotations

import json
import os
from pathlib import Path

import common
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ups.core.errors import UserError

NAMES = ("ups_vs_fno nu=0.01", "ups_vs_fno nu=0.001", "tpe_vs_random demo")


def test_a_file_begins_with_a_header_and_a_section(tmp_path: Path) -> None:
    path = tmp_path / "RESULTS.md"
    common.update_section(path, NAMES[0], "## One\n")
    text = path.read_text()
    assert text.startswith("# Results\n")
    assert text.endswith("<!-- begin ups_vs_fno nu=0.01 -->\n## One\n<!-- end ups_vs_fno nu=0.01 -->\n")


_bodies = st.text("ab#|\n -<>!0.", max_size=40).map(lambda text: text + "x")


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(NAMES), _bodies), min_size=1, max_size=6))
def test_sections_keep_to_themselves(tmp_path_factory: pytest.TempPathFactory, writes: list[tuple[str, str]]) -> None:
    path = tmp_path_factory.mktemp("results") / "RESULTS.md"
    for name, body in writes:
        common.update_section(path, name, body)
    text = path.read_text()
    for name, body in dict(writes).items():
        assert text.count(f"<!-- begin {name} -->") == 1
        assert f"<!-- begin {name} -->\n{body.strip()}\n<!-- end {name} -->" in text
    for name, body in dict(writes).items():
        common.update_section(path, name, body)
    assert path.read_text() == text


def test_what_a_person_wrote_between_sections_stays(tmp_path: Path) -> None:
    path = tmp_path / "RESULTS.md"
    common.update_section(path, NAMES[0], "outdated")
    path.write_text(path.read_text() + "\nA remark.\n")
    common.update_section(path, NAMES[1], "other")
    common.update_section(path, NAMES[0], "new")
    text = path.read_text()
    assert "A remark." in text
    assert "outdated" not in text
    assert text.index("new") < text.index("A remark.") < text.index("other")


def test_a_section_without_an_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "RESULTS.md"
    path.write_text("<!-- begin a -->\nprecious\n")
    with pytest.raises(UserError, match="without '<!-- end a -->'"):
        common.update_section(path, "a", "new")
    assert "precious" in path.read_text()


def test_numbers() -> None:
    assert common.number(None) == "–"
    assert common.number(0.0123456) == "0.0123"
    assert common.number(float("inf")) == "diverges"
    assert common.spread([1.0, 2.0, 3.0]) == "2 ± 1"
    assert common.spread([0.5, None]) == "0.5"
    assert common.spread([1.0, float("inf")]) == "diverges"
    assert common.spread([]) == "–"


def test_an_answer_belongs_to_its_request(tmp_path: Path) -> None:
    request = {"rate": 0.001, "cells": (64, 256)}
    job = common.Job("one", tmp_path, request)
    assert job.result() is None
    common.write_json(tmp_path / "done.json", {"request": request, "result": {"score": 1.0}})
    assert job.result() == {"score": 1.0}
    assert common.Job("one", tmp_path, {**request, "rate": 0.002}).result() is None
    (tmp_path / "done.json").write_text('{"request": {')
    assert job.result() is None


_SCRIPT = """
import json, os, sys
from pathlib import Path
folder = Path(sys.argv[2])
request = json.loads((folder / "request.json").read_text())
if request["fails"]:
    sys.exit(3)
result = {"cores": sorted(os.sched_getaffinity(0)), "threads": os.environ["OMP_NUM_THREADS"]}
(folder / "done.json").write_text(json.dumps({"request": request, "result": result}))
"""


def test_jobs_are_pinned_kept_and_independent(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(_SCRIPT)
    jobs = [common.Job(str(n), tmp_path / str(n), {"n": n, "fails": n == 1}) for n in range(4)]
    before = os.sched_getaffinity(0)
    lanes = min(2, len(before))
    with pytest.raises(RuntimeError, match="1 \\(exit 3"):
        common.run_jobs(script, jobs, lanes)
    assert os.sched_getaffinity(0) == before
    found = [job.result() for job in jobs]
    assert found[1] is None
    for each in found[:1] + found[2:]:
        assert each is not None
        assert len(each["cores"]) == 1
        assert each["threads"] == "1"
    script.write_text("raise SystemExit(4)")
    with pytest.raises(RuntimeError, match=r"^1 \(exit 4, see [^;]*\)$"):
        common.run_jobs(script, jobs, lanes)


def test_a_mistake_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def mistaken() -> None:
        raise UserError("no such thing")

    assert common.exit_code(mistaken) == 2
    assert capsys.readouterr().err == "error: no such thing\n"


def test_json_has_no_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        common.write_json(tmp_path / "a.json", {"value": float("inf")})
    common.write_json(tmp_path / "a.json", {"value": common.finite(float("inf"))})
    assert json.loads((tmp_path / "a.json").read_text()) == {"value": None}
