"""Reports on disk, side by side, and as pictures."""

import io
import math
from dataclasses import replace

import numpy as np
import pytest
from fakes_evaluation import Diverging, Oracle, smooth_fields, spec_of, task_of, trajectories_of
from matplotlib.image import imread
from rich.console import Console

from ups.core.errors import UserError
from ups.evaluation import plots
from ups.evaluation.evaluate import evaluate_run
from ups.evaluation.report import (
    compare_html,
    compare_png,
    compare_rows,
    compare_table,
    differing_protocol,
    load_report,
    report_table,
    save_report,
)

FIELDS = smooth_fields()
TASK = task_of(trajectories_of(FIELDS))
GOOD = evaluate_run(Oracle(spec_of(), FIELDS, late=1, has_latent=True), TASK)
BROKEN = evaluate_run(Diverging(spec_of()), TASK)


def text(renderable):
    console = Console(file=io.StringIO(), width=160)
    console.print(renderable)
    return console.file.getvalue()


def test_report_is_read_back_as_it_was_written(tmp_path):
    for report in (GOOD, replace(GOOD, zero_shot=GOOD)):
        save_report(report, tmp_path / "report.json")
        assert load_report(tmp_path / "report.json") == report
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"metrics": 3, "protocol": {}}', "\ufeffnot json"])
def test_other_files_are_refused_in_one_line(tmp_path, content):
    path = tmp_path / "report.json"
    path.write_text(content)
    with pytest.raises(UserError, match="not a report") as caught:
        load_report(path)
    assert "\n" not in str(caught.value)


def test_a_missing_report_says_how_to_get_one(tmp_path):
    with pytest.raises(UserError, match="ups evaluate"):
        load_report(tmp_path / "run" / "report.json")


def test_table_shows_the_protocol_and_every_row():
    shown = text(report_table(GOOD, "runs/[a]"))
    for wanted in ("runs/[a]", "3 test trajectories, 32 cells, 13 frames", "persistence", "initial mean"):
        assert wanted in shown
    assert f"{GOOD.metrics['coarse_solver_rollout_nrmse']:.4g}" in shown
    assert "(10 given, 3 predicted)" in shown


def test_what_is_not_finite_is_said_and_not_printed_as_a_number():
    shown = text(report_table(BROKEN, "run"))
    assert "not finite" in shown
    assert "left the finite range" in shown
    assert "nan" not in shown.replace("finite", "").split()


def test_best_run_stands_first_and_references_below():
    header, rows = compare_rows({"broken": BROKEN, "good": GOOD})
    assert header[:2] == ["run", "rollout"]
    assert [row[0] for row in rows] == ["good", "broken", "coarse solver", "initial mean", "persistence"]
    assert rows[1][1] == "not finite"
    assert all(len(row) == len(header) for row in rows)


def test_different_protocols_are_called_not_comparable():
    other = replace(GOOD, protocol={**GOOD.protocol, "cells": 64, "split": "validation"})
    assert differing_protocol({"a": GOOD, "b": GOOD}) == []
    assert differing_protocol({"a": GOOD, "b": other}) == ["split", "cells"]
    assert "not comparable: the runs differ in split, cells" in text(compare_table({"a": GOOD, "b": other}))
    assert "not comparable" in compare_html({"a": GOOD, "b": other})


def test_equal_content_under_another_file_name_is_comparable():
    moved = replace(GOOD, protocol={**GOOD.protocol, "files": ["elsewhere.h5"]})
    assert differing_protocol({"a": GOOD, "b": moved}) == []
    changed = replace(GOOD, protocol={**GOOD.protocol, "data": "other"})
    assert differing_protocol({"a": GOOD, "b": changed}) == ["data"]


def test_page_stands_alone_and_escapes_names():
    page = compare_html({"<script>alert(1)</script>": GOOD, "b": BROKEN})
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "http://" not in page
    assert "https://" not in page
    assert "data:image/png;base64," in page


def pixels(png_bytes):
    return imread(io.BytesIO(png_bytes), format="png")


def test_pictures_are_drawn_even_of_what_diverged():
    assert pixels(compare_png({"good": GOOD, "broken": BROKEN})).shape[2] == 4
    prediction = FIELDS[0].copy()
    prediction[4:] = np.nan
    for predicted in (FIELDS[0], prediction, np.full_like(FIELDS[0], np.nan)):
        figure = plots.space_time(FIELDS[0], predicted, dt=0.1, length=1.0, title="t")
        assert pixels(plots.png(figure)).std() > 0.01


def test_truth_and_prediction_share_colours_and_the_error_is_symmetric():
    figure = plots.space_time(FIELDS[0], 3 * FIELDS[0], dt=0.1, length=1.0, title="t")
    truth, prediction, error = (axes.images[0] for axes in figure.axes[:3])
    assert truth.get_clim() == prediction.get_clim()
    assert truth.get_clim()[0] == FIELDS[0].min()
    low, high = error.get_clim()
    assert low == -high
    np.testing.assert_allclose(error.get_array(), 2 * FIELDS[0])


def test_error_curve_breaks_where_it_is_not_finite():
    figure = plots.error_over_time({"a": [0.1, 0.2, math.inf]}, {"b": [1.0, 1.0, 1.0]}, [1, 2, 3], title="t")
    line, reference = figure.axes[0].lines
    assert np.isfinite(line.get_ydata()).tolist() == [True, True, False]
    assert np.isfinite(reference.get_ydata()).all()
    assert figure.axes[0].get_yscale() == "log"
