"""The commands of `ups` without the search: what they print, write and return."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import typer
import yaml

from ups.cli import app, run_app
from ups.config import load_search_config
from ups.core.errors import UserError
from ups.data.pdebench import inspect
from ups.evaluation.report import load_report

SEARCHES = sorted((Path(__file__).parents[1] / "configs" / "ttc").glob("*.yaml"))
TRAINABLE = ["stages.operator.epochs=40", "stages.operator.validations=2"]


@pytest.fixture
def ups(capsys):
    """Run a command; gives (exit code, stdout, stderr)."""

    def run(*args):
        code = run_app(app, [str(arg) for arg in args])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture(scope="session")
def config_file(tmp_path_factory, tiny):
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny))
    return path


@pytest.fixture(scope="session")
def trained(tmp_path_factory, config_file):
    """A run that was trained through the command."""
    folder = tmp_path_factory.mktemp("runs") / "first"
    assert run_app(app, ["train", str(config_file), *TRAINABLE, "--out", str(folder)]) == 0
    return folder


def is_one_line(text):
    return text.startswith("ups: ") and text.count("\n") == 1 and "Traceback" not in text


def commands(group, prefix=()):
    for name, command in typer.main.get_command(group).commands.items():
        if hasattr(command, "commands"):
            yield from ((*prefix, name, below) for below in command.commands)
        else:
            yield (*prefix, name)


@pytest.mark.parametrize("command", list(commands(app)), ids=" ".join)
def test_every_help_has_an_example(ups, command):
    code, out, _ = ups(*command, "--help")
    assert code == 0
    assert f"Example: ups {' '.join(command)}" in " ".join(out.split())


def test_generate_and_inspect(ups, tmp_path):
    path = tmp_path / "new" / "a.h5"
    code, out, _ = ups(
        *("data", "generate", "advection", "--beta", 0.2, "--trajectories", 3, "--cells", 16),
        *("--frames", 5, "--dt", 0.1, "--out", path),
    )
    assert code == 0
    assert out.strip() == str(path)
    info = inspect(path)
    assert info.shape == (3, 5, 16, 1)
    assert (info.dt, info.parameters, info.equation) == (0.1, {"beta": 0.2}, "advection")
    code, out, _ = ups("data", "inspect", path)
    assert code == 0
    assert "beta 0.2" in out
    assert "5, dt 0.1" in out


def test_generate_from_the_first_frames_of_another_file(ups, tmp_path, burgers_file):
    path = tmp_path / "b.h5"
    code, _, _ = ups(
        *("data", "generate", "burgers", "--nu", 0.1, "--initial", burgers_file, "--trajectories", 2),
        *("--frames", 3, "--out", path),
    )
    assert code == 0
    with h5py.File(path) as new, h5py.File(burgers_file) as old:
        np.testing.assert_array_equal(new["tensor"][:, 0], old["tensor"][:2, 0])


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["burgers", "--beta", "1"], ["--beta", "burgers", "--nu"]),
        (["burger"], ["EQUATION", "burgers, advection"]),
        (["burgers", "--nu", "-1"], ["nu", "positive"]),
        (["burgers", "--cells", "1"], ["cells", "at least"]),
        (["burgers", "--cells", "many"], ["--cells"]),
        (["burgers", "--initial", "nowhere.h5"], ["nowhere.h5", "no such file"]),
    ],
)
def test_generate_refuses_in_one_line_and_writes_nothing(ups, tmp_path, args, words):
    code, _, err = ups("data", "generate", *args, "--out", tmp_path / "a.h5")
    assert code == 2
    assert is_one_line(err.splitlines(keepends=True)[-1])
    assert all(word in err for word in words), err
    assert list(tmp_path.iterdir()) == []


def test_train_writes_a_report_that_evaluate_repeats(ups, tmp_path, trained):
    written = load_report(trained / "report.json")
    code, out, err = ups("evaluate", trained, "--json", tmp_path / "e.json")
    assert code == 0, err
    assert "persistence" in out
    again = load_report(tmp_path / "e.json")
    assert again.metrics == written.metrics
    assert again.protocol == written.protocol
    assert written.protocol["trajectories"] == 4
    assert json.loads((tmp_path / "e.json").read_text())["metrics"].keys() >= {
        "rollout_nrmse",
        "one_step_nrmse",
        "latent_rollout_nrmse",
        "reencode_rollout_nrmse",
        "persistence_rollout_nrmse",
        "mean_rollout_nrmse",
    }


def test_evaluate_on_another_split_and_file(ups, tmp_path, trained):
    code, _, _ = ups("evaluate", trained, "--split", "validation", "--json", tmp_path / "v.json")
    assert code == 0
    assert load_report(tmp_path / "v.json").protocol["split"] == "validation"
    foreign = tmp_path / "foreign.h5"
    generate = ("data", "generate", "burgers", "--nu", 0.1, "--trajectories", 2, "--cells", 64)
    assert ups(*generate, "--frames", 9, "--dt", 0.025, "--out", foreign)[0] == 0
    code, out, err = ups("evaluate", trained, "--data", foreign, "--json", tmp_path / "f.json")
    assert code == 0, err
    report = load_report(tmp_path / "f.json")
    assert (report.protocol["cells"], report.protocol["frames"]) == (32, 5)
    assert report.zero_shot is not None
    assert report.zero_shot.protocol["cells"] == 64
    assert report.protocol["extrapolation"] is True
    assert "extrapolation: nu is 0.1, the run was trained on 0.01" in " ".join(out.split())


@pytest.fixture
def settings(tmp_path):
    """A file of `--ttc` with this content; gives its path."""

    def write(**content):
        path = tmp_path / "settings.yaml"
        path.write_text(yaml.safe_dump(content))
        return path

    return write


def test_evaluate_with_a_search_at_test_time(ups, tmp_path, trained, settings):
    plain = load_report(trained / "report.json").metrics
    values = {"candidates": 3, "noise_std": 0.05, "reward": {"kind": "composite", "residual": 1.0}}
    reports = []
    for content in (values, {"ttc": values}):
        code, out, err = ups("evaluate", trained, "--ttc", settings(**content), "--json", tmp_path / "e.json")
        assert code == 0, err
        assert "this run without its search" in out
        assert "oracle, choice by token" in out
        assert "holds a solver" in " ".join(out.split())
        reports.append(load_report(tmp_path / "e.json"))
    first, second = reports
    assert first.metrics == second.metrics
    assert first.metrics["plain_rollout_nrmse"] == plain["rollout_nrmse"]
    assert first.metrics["reencode_rollout_nrmse"] == plain["reencode_rollout_nrmse"]
    assert first.ttc.nrmse == pytest.approx(first.metrics["rollout_nrmse"])
    written = json.loads((tmp_path / "e.json").read_text())["ttc"]
    assert written["config"]["candidates"] == 3
    assert written.keys() >= {"nrmse", "plain_nrmse", "ratio", "gain", "oracle_nrmse", "curve", "terms", "cost"}
    code, _, err = ups("compare", tmp_path / "e.json", trained, "--out", tmp_path / "c.html")
    assert code == 0, err
    assert (tmp_path / "c.html").read_text().count("Search at test time") == 1


def test_evaluate_another_file_with_a_search(ups, tmp_path, trained, settings):
    for dt in (0.05, 0.1):  # every second step of the run has no truth in the second file
        generate = ("data", "generate", "burgers", "--nu", 0.02, "--trajectories", 2, "--cells", 32, "--frames", 4)
        assert ups(*generate, "--dt", dt, "--out", tmp_path / f"{dt}.h5")[0] == 0
        given = ("--data", tmp_path / f"{dt}.h5", "--ttc", settings(candidates=2), "--split", "test")
        assert ups("evaluate", trained, *given)[0] == 2
        code, _, err = ups("evaluate", trained, *given[:4], "--json", tmp_path / "f.json")
        assert code == 0, err
        report = load_report(tmp_path / "f.json")
        assert "plain_rollout_nrmse" in report.metrics
        assert (report.ttc is not None) == (dt == 0.05)
    assert any("search: not looked into" in note for note in report.notes)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"candidats": 4}, ["candidats: unknown key", "did you mean 'candidates'"]),
        ({"ttc": {"nois_std": 0.1}}, ["nois_std: unknown key", "did you mean 'noise_std'"]),
        ({"ttc": 3}, ["ttc"]),
        ({"candidates": 0}, ["candidates", "got 0"]),
        ({"source": "student"}, ["ttc.source", "student was not trained"]),
        ({"reward": {"kind": "composite", "positivity": 1.0}}, ["positivity", "not a law of burgers"]),
        ({"reward": {"kind": "adaptive", "min_correlation": 1.0}}, ["nothing tells candidates apart"]),
    ],
)
def test_evaluate_refuses_a_search_in_one_line(ups, tmp_path, trained, settings, content, words):
    code, out, err = ups("evaluate", trained, "--ttc", settings(**content), "--json", tmp_path / "e.json")
    assert code == 2, err
    assert is_one_line(err), err
    assert all(word in err for word in words), err
    assert out == ""
    assert not (tmp_path / "e.json").exists()


def test_evaluate_names_the_searches_that_are_shipped(ups, trained):
    code, _, err = ups("evaluate", trained, "--ttc", "nowhere")
    assert code == 2
    assert is_one_line(err)
    assert "--ttc: nowhere: no such file" in err
    assert "(there are: burgers1d" in err


def test_a_run_without_latent_cannot_be_searched(ups, tmp_path, config_file):
    run = tmp_path / "unet"
    made = ("baseline={kind: unet, width: 4, depth: 1}", "stages.operator.losses.inverse_encoding.weight=0")
    made = (*made, "stages.operator.losses.inverse_decoding.weight=0", "stages.operator.validations=1")
    code, _, err = ups("train", config_file, *made, "--out", run)
    assert code == 0, err
    code, _, err = ups("evaluate", run, "--ttc", "burgers1d")
    assert code == 2
    assert is_one_line(err)
    assert "a baseline has no latent" in err


@pytest.mark.parametrize("path", SEARCHES, ids=lambda path: path.stem)
def test_every_shipped_search_loads_by_its_name(path):
    assert path.read_text().startswith("# ")
    assert load_search_config(path.stem) == load_search_config(path)


@pytest.mark.parametrize("nu", [0.001, 0.01, 0.1])
def test_evaluate_on_pdebenchs_own_files(ups, tmp_path, trained, shared_file, nu):
    code, _, err = ups("evaluate", trained, "--data", shared_file(nu), "--json", tmp_path / "report.json")
    assert code == 0, err
    report = load_report(tmp_path / "report.json")
    assert (report.protocol["cells"], report.protocol["frames"]) == (32, 41)
    assert report.protocol["extrapolation"] is (nu != 0.01)
    assert report.zero_shot is not None
    assert report.zero_shot.protocol["cells"] == 1024
    # the constant initial mean needs no training: its error is a fact of PDEBench's trajectories
    assert 0.3 < report.metrics["mean_rollout_nrmse"] < 1.0


def test_evaluate_refuses_what_does_not_fit(ups, tmp_path, trained, burgers_file):
    odd = tmp_path / "odd.h5"
    assert ups("data", "generate", "burgers", "--trajectories", 2, "--cells", 32, "--dt", 0.03, "--out", odd)[0] == 0
    truncated = tmp_path / "truncated.h5"
    truncated.write_bytes(burgers_file.read_bytes()[:20_000])
    for args, word in [
        (["--data", odd], "run's dt 0.05"),
        (["--data", truncated], "truncated"),
        (["--data", tmp_path / "nowhere.h5"], "no such file"),
        (["--data", burgers_file, "--split", "test"], "give one of them"),
        (["--split", "tset"], "--split"),
    ]:
        code, out, err = ups("evaluate", trained, *args, "--json", tmp_path / "e.json")
        assert code == 2, (args, err)
        assert is_one_line(err), err
        assert word in err
        assert out == ""
    assert not (tmp_path / "e.json").exists()


def test_evaluate_refuses_a_run_whose_data_changed(ups, tmp_path, tiny, burgers_file):
    data = tmp_path / "data.h5"
    data.write_bytes(burgers_file.read_bytes())
    config = tmp_path / "c.yaml"
    config.write_text(yaml.safe_dump({**tiny, "task": {**tiny["task"], "files": [str(data)]}}))
    ups("train", config, "--out", tmp_path / "run")
    assert (tmp_path / "run" / "checkpoints" / "best.safetensors").is_file()
    with h5py.File(data, "r+") as file:
        file["tensor"][...] = file["tensor"][:][::-1]
    code, _, err = ups("evaluate", tmp_path / "run")
    assert code == 2
    assert is_one_line(err)
    assert "data changed since it was trained" in err


def test_a_finished_run_is_not_overwritten_and_can_be_resumed(ups, config_file, trained):
    before = (trained / "result.json").read_bytes()
    code, _, err = ups("train", config_file, *TRAINABLE, "--out", trained)
    assert code == 2
    assert is_one_line(err)
    assert "--resume" in err
    assert ups("train", config_file, *TRAINABLE, "--out", trained, "--resume")[0] == 0
    assert (trained / "result.json").read_bytes() == before


def test_an_exploded_run_says_why_and_fails(ups, config_file, tmp_path):
    limits = [f"stages.operator.guard.{name}_norm=1e-9" for name in ("warn", "skip", "explode")]
    code, _, err = ups("train", config_file, *limits, "--out", tmp_path / "run")
    assert code == 1
    assert err.splitlines()[-1].startswith("ups: EXPLODED: gradient norm")
    assert "Traceback" not in err


def test_rollout_as_picture_and_as_a_file_that_is_readable(ups, tmp_path, trained, burgers_file):
    assert ups("rollout", trained, "--trajectory", 1, "--out", tmp_path / "a.png")[0] == 0
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert ups("rollout", trained, "--trajectory", 1, "--out", tmp_path / "a.h5")[0] == 0
    info = inspect(tmp_path / "a.h5")
    assert info.shape == (1, 9, 32, 1)
    assert info.parameters == {"nu": 0.01}
    split = json.loads((trained / "split.json").read_text())
    with h5py.File(tmp_path / "a.h5") as written, h5py.File(burgers_file) as source:
        np.testing.assert_array_equal(written["truth"][0], source["tensor"][split["test"][1]])
        np.testing.assert_array_equal(written["tensor"][0, 0], written["truth"][0, 0])
        assert not np.array_equal(written["tensor"][0, 1], written["truth"][0, 1])


def test_rollout_on_other_cells(ups, tmp_path, trained):
    assert ups("rollout", trained, "--cells", 16, "--out", tmp_path / "a.h5")[0] == 0
    assert inspect(tmp_path / "a.h5").cells == (16,)


@pytest.mark.parametrize(
    ("args", "word"),
    [
        (["--trajectory", "4", "--out", "a.h5"], "between 0 and 3"),
        (["--cells", "20", "--out", "a.h5"], "must divide the 32 cells"),
        (["--out", "a.jpg"], ".png or .h5"),
    ],
)
def test_rollout_refuses(ups, tmp_path, monkeypatch, trained, args, word):
    monkeypatch.chdir(tmp_path)
    code, _, err = ups("rollout", trained, *args)
    assert code == 2
    assert is_one_line(err)
    assert word in err
    assert list(tmp_path.iterdir()) == []


def test_compare_runs(ups, tmp_path, trained):
    code, out, _ = ups("compare", trained, trained / "report.json", "--out", tmp_path / "c.html")
    assert code == 0
    assert "coarse solver" in out
    assert str(trained.name) in (tmp_path / "c.html").read_text()
    assert ups("compare", trained, "--out", tmp_path / "c.png")[0] == 0
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
    assert ups("compare", trained, "--out", tmp_path / "c.svg")[0] == 0
    assert b"<svg" in (tmp_path / "c.svg").read_bytes()
    code, _, err = ups("compare", trained, tmp_path / "nowhere")
    assert code == 2
    assert is_one_line(err)


def test_report_of_a_run_is_one_page_and_its_figures(ups, tmp_path, trained):
    code, out, _ = ups("report", trained, "--out", tmp_path / "a.html", "--figures", tmp_path / "figures")
    assert (code, out) == (0, f"{tmp_path / 'a.html'}\n")
    page = (tmp_path / "a.html").read_text()
    titles = re.findall("<h2>(.*?)</h2>", page)
    assert titles == ["Summary", "Course of training", "Pictures", "Scores", "Config"]
    assert not re.search(r'(src|href)="(?!data:image/|#)', page)
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    course = {"validation-score.svg", "training-loss.svg", "learning-rate.svg"}
    assert {*course, "error-over-time-on-test.svg", "energy-spectrum.png"} <= names
    assert len(names) == page.count("<figure")


def test_a_run_from_before_learning_rates_were_recorded_has_a_page(ups, tmp_path, trained):
    copy = tmp_path / "run"
    shutil.copytree(trained, copy, ignore=shutil.ignore_patterns("store"))
    lines = [json.loads(line) for line in (copy / "progress.jsonl").read_text().splitlines()]
    assert all(line.pop("lr") is not None for line in lines if line["stage"] == "operator")
    (copy / "progress.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert ups("report", copy, "--figures", tmp_path / "figures")[0] == 0
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert "training-loss.svg" in names
    assert "learning-rate.svg" not in names


def test_report_without_its_weights_leaves_the_fields_out_and_says_why(ups, tmp_path, trained):
    copy = tmp_path / "run"
    shutil.copytree(trained, copy, ignore=shutil.ignore_patterns("store", "checkpoints"))
    assert ups("report", copy)[0] == 0
    page = (copy / "report.html").read_text()
    assert "Its fields cannot be drawn." in page
    assert "put the file back" in page
    # the report is still there
    assert "Error over time on test" in page
    assert "<h2>Scores</h2>" in page
    (copy / "result.json").unlink()
    code, _, err = ups("report", copy)
    assert code == 2
    assert is_one_line(err)
    assert "no finished run here" in err


def test_config_show_is_complete_and_loads_again(ups, tmp_path, config_file):
    code, out, _ = ups("config", "show", config_file, "latent.tokens=4")
    assert code == 0
    shown = yaml.safe_load(out)
    assert shown["latent"]["tokens"] == 4
    assert "provenance" in shown
    (tmp_path / "again.yaml").write_text(out)
    assert ups("config", "show", tmp_path / "again.yaml")[1] == out
    assert ups("config", "diff", config_file, tmp_path / "again.yaml")[1] == "latent.tokens: 8 -> 4\n"


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["config", "show", "nowhere.yaml"], ["nowhere.yaml"]),
        (["train", "CONFIG", "latent.tokns=4"], ["latent.tokns", "did you mean 'latent.tokens'"]),
        (["train", "CONFIG", "latent.tokens=-4"], ["latent.tokens", "-4"]),
        (["train", "CONFIG", "latent.tokens"], ["latent.tokens", "path=value"]),
        (["train", "CONFIG", "task.files=[nowhere.h5]"], ["nowhere.h5", "no such file"]),
        (["trian"], ["trian", "train"]),
        (["train", "CONFIG", "--resmue"], ["--resmue", "--resume"]),
        (["evaluate", "nowhere"], ["nowhere"]),
        ([], ["Missing command"]),
    ],
)
def test_mistakes_are_one_line_and_two(ups, tmp_path, monkeypatch, config_file, args, words):
    monkeypatch.chdir(tmp_path)
    code, out, err = ups(*(config_file if arg == "CONFIG" else arg for arg in args))
    assert code == 2
    assert is_one_line(err), err
    assert all(word in err for word in words), err
    assert out == ""


def boom(error):
    other = typer.Typer()

    @other.command()
    def only():
        raise error

    return other


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("two\nlines"), 2, "ups: two lines\n"),
        (KeyboardInterrupt(), 130, "ups: interrupted\n"),
        (PermissionError(13, "Permission denied", "/x"), 2, "ups: /x: no permission (Permission denied)\n"),
        (OSError(28, "No space left on device"), 1, "ups: No space left on device; nothing was kept"),
        (NotADirectoryError(20, "Not a directory", "/x/y"), 2, "ups: /x/y: Not a directory"),
        (typer.Exit(3), 3, ""),
    ],
    ids=lambda value: type(value).__name__,
)
def test_errors_become_codes(capsys, error, code, line):
    assert run_app(boom(error), []) == code
    err = capsys.readouterr().err
    assert err.startswith(line)
    assert err.count("\n") <= 1


def test_what_nobody_foresaw_keeps_its_traceback(capsys):
    assert run_app(boom(RuntimeError("ours")), []) == 1
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert "RuntimeError: ours" in err


def python(*args, **kwargs):
    return subprocess.run([sys.executable, *args], capture_output=True, text=True, timeout=240, **kwargs)


def test_as_a_module():
    done = python("-m", "ups", "evaluate", "nowhere")
    assert done.returncode == 2
    assert done.stdout == ""
    assert is_one_line(done.stderr)


def test_help_needs_no_heavy_import_and_the_package_no_ray():
    code = (
        "import sys; from ups.cli import app, run_app; run_app(app, ['--help']); "
        "assert 'torch' not in sys.modules and 'matplotlib' not in sys.modules; "
        "import ups.run, ups.evaluation.foreign, ups.evaluation.rollout; "
        "assert not {'ray', 'optuna', 'tune'} & set(sys.modules)"
    )
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
