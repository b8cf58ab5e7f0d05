"""Reports on disk, side by side, and as pictures."""

import io
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from fakes_evaluation import (
    DARCY,
    FLOW,
    Diverging,
    Known,
    Oracle,
    darcy_fields,
    flow_fields,
    smooth_fields,
    spec_of,
    task_of,
    trajectories_in,
    trajectories_of,
)
from matplotlib.image import imread
from rich.console import Console

from ups.core.errors import UserError
from ups.evaluation import field_plots, plots
from ups.evaluation.compare import compare_html, compare_picture, compare_rows, compare_table, differing_protocol
from ups.evaluation.evaluate import evaluate_run
from ups.evaluation.report import load_report, report_table, save_report
from ups.evaluation.stages import with_stages

FIELDS = smooth_fields()
TASK = task_of(trajectories_of(FIELDS))
GOOD = evaluate_run(Oracle(spec_of(), FIELDS, late=1, has_latent=True), TASK)
BROKEN = evaluate_run(Diverging(spec_of()), TASK)
FLOWING = evaluate_run(Known(FLOW, flow_fields(), 0.9), task_of(trajectories_in(FLOW, flow_fields()), spec=FLOW))
STEADY = evaluate_run(
    Known(DARCY, darcy_fields(), 0.8), task_of(trajectories_in(DARCY, darcy_fields()), spec=DARCY, mean=(0.3,))
)
STAGES = {
    "operator": {
        "status": "COMPLETE",
        "score_before": 0.98,
        "score_after": 0.05,
        "kept": True,
        "seconds": 90.0,
        "parameters": 150_000,
        "reused": False,
        "note": "",
    },
    "diff_residual": {
        "status": "COMPLETE",
        "score_before": 0.05,
        "score_after": 0.055,
        "kept": False,
        "seconds": 30.0,
        "parameters": 20_000,
        "reused": False,
        "note": "worsens the score",
    },
    "consistency_distill": {"status": "SKIPPED", "score_before": None, "score_after": None, "kept": False},
}


def text(renderable):
    console = Console(file=io.StringIO(), width=160)
    console.print(renderable)
    return console.file.getvalue()


def test_report_is_read_back_as_it_was_written(tmp_path):
    for report in (GOOD, FLOWING, STEADY, replace(GOOD, zero_shot=GOOD), replace(GOOD, stages=STAGES)):
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
    assert pixels(compare_picture({"good": GOOD, "broken": BROKEN}, ".png")).shape[2] == 4
    prediction = FIELDS[0].copy()
    prediction[4:] = np.nan
    for predicted in (FIELDS[0], prediction, np.full_like(FIELDS[0], np.nan)):
        figure = field_plots.space_time(FIELDS[0], predicted, dt=0.1, length=1.0, title="t")
        assert pixels(plots.png(figure)).std() > 0.01


def test_truth_and_prediction_share_colours_and_the_error_is_symmetric():
    figure = field_plots.space_time(FIELDS[0], 3 * FIELDS[0], dt=0.1, length=1.0, title="t")
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


def row_of(shown, name):
    (line,) = [line for line in shown.splitlines() if name in line.split()]
    return [cell.strip() for cell in line.strip("│ ").split("│")]


def test_each_stage_is_shown_with_what_it_brought():
    shown = text(report_table(replace(GOOD, stages=STAGES), "run"))
    assert row_of(shown, "operator") == ["operator", "0.98", "0.05", "-94.9%", "yes", "90 s (75%)", "150,000"]
    assert row_of(shown, "diff_residual")[2:6] == ["0.055", "+10.0%", "left out", "30 s (25%)"]
    assert row_of(shown, "diff_residual")[-1] == "worsens the score"
    assert row_of(shown, "consistency_distill")[1:7] == ["–", "–", "–", "left out", "–", "–"]
    assert "on validation" not in text(report_table(GOOD, "run"))


def test_a_reused_stage_has_no_share_of_the_time():
    reused = {**STAGES, "operator": {**STAGES["operator"], "reused": True}}
    shown = text(report_table(replace(GOOD, stages=reused), "run"))
    assert row_of(shown, "operator")[5] == "reused"
    assert row_of(shown, "diff_residual")[5] == "30 s (100%)"


def test_a_stage_that_diverged_says_how_and_does_not_spoil_the_json(tmp_path):
    exploded = {**STAGES["diff_residual"], "status": "EXPLODED", "score_after": math.inf, "note": ""}
    report = replace(GOOD, stages={"diff_residual": exploded})
    shown = row_of(text(report_table(report, "run")), "diff_residual")
    assert (shown[2], shown[3], shown[-1]) == ("not finite", "–", "EXPLODED")
    save_report(report, tmp_path / "report.json")
    assert load_report(tmp_path / "report.json").stages["diff_residual"]["score_after"] is None


def test_stages_come_from_the_result_of_the_run(tmp_path):
    result = tmp_path / "result.json"
    assert with_stages(GOOD, result) == GOOD
    result.write_text(json.dumps({"score": 0.1}))
    assert with_stages(GOOD, result) == GOOD
    result.write_text(json.dumps({"score": 0.1, "stages": STAGES}))
    assert with_stages(GOOD, result).stages == STAGES
    told = replace(GOOD, stages={"operator": STAGES["operator"]})
    assert with_stages(told, result) == told


def test_a_flow_shows_its_cells_and_channels():
    shown = text(report_table(FLOWING, "run"))
    assert "3 test trajectories, 16 x 12 cells, 5 frames" in shown
    assert all(f"nRMSE of {name}" in shown for name in ("vx", "vy", "s"))
    assert "coarse solver" not in shown


def test_a_steady_report_has_no_rows_of_time():
    shown = text(report_table(STEADY, "run"))
    assert "4 test samples, 16 x 16 cells, solution from coefficient" in shown
    assert "mean solution" in shown
    assert "skill against the mean solution" in shown
    assert not any(word in shown for word in ("initial mean", "persistence", "one step", "correlation time"))
    assert [row[0] for row in compare_rows({"a": STEADY})[1]] == ["a", "mean solution"]
    assert "mean solution" in compare_html({"a": STEADY})
    assert pixels(compare_picture({"a": STEADY}, ".png")).std() > 0.01


def test_maps_share_colours_at_each_frame_and_errors_one_scale():
    truth = flow_fields()[0]
    names = ("vx", "vy", "s")
    figure = field_plots.maps_over_time(truth, 1.5 * truth, channels=names, dt=0.25, dx=0.125, title="t")
    panels = np.array(figure.axes[: 9 * 4]).reshape(3, 3, 4)
    for channel, (own_row, predicted_row, error_row) in enumerate(panels):
        assert own_row[0].images
        assert not predicted_row[0].images
        assert not error_row[0].images
        for column, frame in ((1, 1), (2, 3), (3, 4)):
            own, predicted, error = (row[column].images[0] for row in (own_row, predicted_row, error_row))
            field = truth[frame, ..., channel]
            assert own.get_clim() == predicted.get_clim() == (field.min(), field.max())
            np.testing.assert_allclose(error.get_array(), 0.5 * field.T, rtol=1e-5)
            assert error.get_clim() == error_row[1].images[0].get_clim()
            assert sum(error.get_clim()) == 0


def test_maps_have_x_to_the_right_and_y_upwards():
    truth = np.zeros((2, 6, 4, 1))
    truth[:, 5, 0] = 1  # lower right
    figure = field_plots.maps_over_time(truth, truth, channels=("u",), dt=1.0, dx=0.5, title="t")
    image = figure.axes[0].images[0]
    assert image.get_extent() == [0, 3, 0, 2]
    assert image.origin == "lower"
    assert image.get_array()[0, 5] == 1


def test_steady_maps_show_the_coefficient_in_its_own_colours():
    given, truth = darcy_fields()[0]
    figure = field_plots.steady_maps(given, truth, 2 * truth, channels=("u",), dx=1 / 16, title="t")
    true, predicted, coefficient, error = (axes.images[0] for axes in figure.axes[:4])
    assert coefficient.get_clim() == (given.min(), given.max())
    assert true.get_clim() == predicted.get_clim() == (truth.min(), truth.max())
    np.testing.assert_allclose(error.get_array(), truth[..., 0].T)


def test_maps_of_what_diverged_are_drawn():
    truth = flow_fields()[0]
    prediction = truth.copy()
    prediction[2:] = np.nan
    figures = [
        field_plots.maps_over_time(truth, prediction, channels=("vx", "vy", "s"), dt=0.25, dx=0.125, title="t"),
        field_plots.steady_maps(truth[0], truth[1], prediction[3], channels=("vx", "vy", "s"), dx=0.125, title="t"),
        plots.error_bars({"a": 0.1, "b": np.inf, "c": 0.0}, {"mean": 0.5}, title="t"),
    ]
    for figure in figures:
        assert pixels(plots.png(figure)).std() > 0.01
