"""Pictures of a run say what is seen, are whole files, and belong to the trajectories that they name."""

import base64
import io
import math
import re
from dataclasses import replace
from html import unescape

import numpy as np
import pytest
import torch
from fakes_evaluation import (
    DARCY,
    FLOW,
    Diverging,
    Known,
    darcy_fields,
    flow_fields,
    smooth_fields,
    spec_of,
    task_of,
    trajectories_in,
    trajectories_of,
)
from PIL import Image

from ups.core.measures import energy_spectrum
from ups.evaluation.evaluate import evaluate_run
from ups.evaluation.paired import interval_of_mean
from ups.evaluation.pictures import pictures

FIELDS = smooth_fields(samples=7, frames=13)[..., None].astype(np.float32)
TEST = trajectories_of(FIELDS[..., 0])


class Uneven:
    """Right times 1 + 0.1 for the first trajectory, 1 + 0.2 for the second, ..., so that its errors are known."""

    spec = spec_of()

    def rollout(self, initial_BXC, parameters_BP, steps, mode=None):
        out = []
        for initial in initial_BXC.numpy():
            ((number, frame),) = np.argwhere((initial == FIELDS).all(axis=(2, 3)))
            out.append(FIELDS[number, frame + 1 : frame + 1 + steps] * (1.1 + 0.1 * number))
        return torch.from_numpy(np.stack(out))


def captions(figures):
    return [re.search("<figcaption>(.*?)</figcaption>", figure)[1] for figure in figures]


def alternatives(figures):
    return [unescape(re.search('(?:alt|aria-label)="([^"]*)"', figure)[1]) for figure in figures]


def opened(figures):
    """Those that are pictures and not drawings."""
    found = []
    for figure in (each for each in figures if "<img" in each):
        kind, text = re.search('src="data:image/(png|gif);base64,([^"]*)"', figure).groups()
        image = Image.open(io.BytesIO(base64.b64decode(text, validate=True)))
        assert image.format == kind.upper()
        found.append(image)
    return found


def test_the_median_and_the_worst_trajectory_are_shown_with_their_errors():
    report = evaluate_run(Known(spec_of(), FIELDS), task_of(TEST))
    # in another order than the numbers
    errors = (0.5, 0.1, 0.7, 0.3, 0.6, 0.2, 0.4)
    figures = pictures(Uneven(), TEST, replace(report, trajectory_nrmse=errors)).figures
    names = captions(figures)
    assert names == [
        "Typical test trajectory (number 6)",
        "Typical test trajectory (number 6): snapshots",
        "Worst test trajectory (number 2)",
        "Worst test trajectory (number 2): snapshots",
        "Error over time on test",
        "Energy spectrum",
    ]
    said = alternatives(figures)
    assert "nRMSE 0.7" in said[0]
    assert "nRMSE 0.3" in said[2]
    assert "persistence" in said[4]
    assert "coarse solver" in said[4]
    assert all(np.asarray(image.convert("L")).std() > 5 for image in opened(figures))


def test_without_a_report_the_rollouts_speak_for_themselves():
    figures = pictures(Uneven(), TEST, None).figures
    assert captions(figures)[0] == "Typical test trajectory of 7 (number 3)"
    assert captions(figures)[2] == "Worst test trajectory of 7 (number 6)"
    said = alternatives(figures)[4]
    # of errors 0.1 to 0.7 in every frame
    assert "Mean nRMSE over 7 test trajectories: 0.4" in said
    assert "in the end 0.2 to 0.6" in said


def test_without_a_report_errors_over_time_are_those_that_a_report_would_have():
    # no more trajectories than are rolled out: then both are of all of them
    report = evaluate_run(Uneven(), task_of(TEST))
    told, measured = (pictures(Uneven(), TEST, each).figures[4] for each in (report, None))
    assert all(f">{name}</li>" in told for name in ("this run", "persistence", "initial mean", "coarse solver"))
    assert told == measured


def test_pictures_say_which_trajectories_they_are_of():
    figures = pictures(Uneven(), TEST, None, split="validation").figures
    assert captions(figures)[:1] == ["Typical validation trajectory of 7 (number 3)"]
    assert captions(figures)[4] == "Error over time on validation"
    assert "Mean nRMSE over 7 validation trajectories" in alternatives(figures)[4]
    assert "Of the typical validation trajectory" in alternatives(figures)[5]
    assert not any("test" in re.sub('base64,[^"]*', "", figure) for figure in figures)


def test_fewer_are_rolled_out_where_it_takes_long():
    quick, slow = (pictures(Uneven(), TEST, None, step_ms=ms).figures for ms in (1.0, 1e6))
    assert "of 7 (" in captions(quick)[0]
    assert captions(slow)[0] == "Typical test trajectory of 3 (number 3)"
    assert "Mean nRMSE over 3 of 7 test trajectories" in alternatives(slow)[4]
    # quantiles of three are no band
    assert "quantiles" in quick[4]
    assert "quantiles" not in slow[4]


def test_a_recorded_band_is_of_all_trajectories():
    report = evaluate_run(Uneven(), task_of(TEST))
    np.testing.assert_allclose(report.curves["nrmse_low"], 0.2, rtol=1e-4)
    np.testing.assert_allclose(report.curves["nrmse_high"], 0.6, rtol=1e-4)
    slow = replace(report, cost={"rollout_seconds": 100.0})
    figures = pictures(Uneven(), TEST, slow).figures
    assert "over 7 test trajectories" in alternatives(figures)[4]
    assert "quantiles, in the end 0.2 to 0.6" in alternatives(figures)[4]
    assert "Of the typical test trajectory" in alternatives(figures)[5]


def test_what_diverged_is_drawn_and_said():
    figures = pictures(Diverging(spec_of()), TEST, None).figures
    assert "Energy spectrum" not in captions(figures)
    assert "not finite from t = 0.2 on" in alternatives(figures)[0]
    assert "not finite at t = 1.2" in alternatives(figures)[4]
    assert len(opened(figures)) == len(figures) - 1
    assert "this run (not finite)" in figures[4]


def test_a_flow_moves_and_has_every_channel():
    fields = flow_fields()
    figures = pictures(Known(FLOW, fields, (1.1, 1.2, 1.05)), trajectories_in(FLOW, fields), None).figures
    names = captions(figures)
    assert sum(name.startswith("Typical") for name in names) == 4
    # of the worst one that channel whose error is largest
    assert sum(name.startswith("Worst") and name.endswith("vy") for name in names) == 1
    assert sum(name.startswith("Energy spectrum") for name in names) == 3
    (moving,) = [figure for figure in figures if "image/gif" in figure]
    assert "vy: animation" in moving
    assert "<details open>" in moving
    (animation,) = opened([moving])
    assert animation.n_frames == fields.shape[1]
    assert animation.info["loop"] == 0
    assert animation.convert("RGB").getpixel((1, 1)) == (255, 255, 255)
    assert len(moving) < 1_000_000


def test_a_steady_task_has_fields_alone():
    fields = darcy_fields()
    figures = pictures(Known(DARCY, fields, 0.8), trajectories_in(DARCY, fields), None).figures
    assert all("test sample" in name for name in captions(figures))
    assert all("nRMSE 0.2" in said and "t =" not in said for said in alternatives(figures))
    assert all("image/png" in figure for figure in figures)


@pytest.mark.parametrize(("cells", "boundary"), [((32,), "periodic"), ((16, 16), "periodic"), ((12,), "neumann")])
def test_the_energies_of_all_shells_are_half_the_mean_square(cells, boundary):
    axes = torch.meshgrid(*((torch.arange(n) + 0.5) / n for n in cells), indexing="ij")
    # nothing in the corners of the spectrum
    wave = sum(torch.cos(2 * math.pi * axis) for axis in axes) + 0.5
    energy = energy_spectrum(wave[None, None, ..., None], boundary)
    assert energy.sum().item() == pytest.approx(0.5 * wave.double().square().mean().item(), rel=1e-6)
    assert energy.shape == (1, 1, cells[0] // 2 + 1 if boundary == "periodic" else cells[0] + 1, 1)


def test_a_wave_lies_in_the_shell_of_its_wavenumber():
    x, y = torch.meshgrid(torch.arange(32) / 32, torch.arange(16) / 16, indexing="ij")
    # the second axis is half as long: one wave along it is two along the first; (3, 4) has the length 5
    for waves, shell in (((3, 0), 3), ((0, 1), 2), ((3, 2), 5), ((-3, 2), 5)):
        field = torch.cos(2 * math.pi * (waves[0] * x + waves[1] * y))
        energy = energy_spectrum(field[None, None, ..., None])[0, 0, :, 0]
        assert energy.argmax().item() == shell
        assert energy[shell].item() == pytest.approx(0.25, rel=1e-5)


def test_walls_leave_a_smooth_field_without_high_waves():
    x = (torch.arange(64) + 0.5) / 64
    half_wave = torch.cos(math.pi * x)[None, None, :, None]
    energy = energy_spectrum(half_wave, "neumann")[0, 0, :, 0]
    assert energy[1].item() == pytest.approx(0.25, rel=1e-6)
    assert energy[2:].sum().item() < 1e-12
    odd = energy_spectrum(torch.sin(math.pi * x)[None, None, :, None], "dirichlet")[0, 0, :, 0]
    assert odd[1].item() == pytest.approx(0.25, rel=1e-6)


def test_the_interval_of_a_mean_holds_it_and_shrinks_with_more_trajectories():
    random = np.random.default_rng(0)
    errors = random.gamma(2.0, size=400)
    few, many = interval_of_mean(errors[:20]), interval_of_mean(errors)
    assert few[0] < errors[:20].mean() < few[1]
    assert many[0] < errors.mean() < many[1]
    assert many[1] - many[0] < (few[1] - few[0]) / 3
    # of the normal approximation
    assert many[1] - many[0] == pytest.approx(2 * 1.96 * errors.std(ddof=1) / 20, rel=0.1)
