"""The page of a study: complete, self-contained, safe, and there whatever the study looks like."""

import json
import re
import shutil
from html.parser import HTMLParser

import pytest

from tune import importance, report
from tune.report import render, write_report
from tune.space import SearchConfig
from tune.study import Plan, StudyFolder, TrialRecord, diverged_shares
from ups.config import RunConfig
from ups.core.errors import UserError
from ups.core.types import Status
from ups.data.task import Task
from ups.evaluation.pictures import Pictures
from ups.evaluation.run_page import run_page

HOSTILE = "<script>alert('x')</script> & \"quotes\" </title></svg>"
LR, KIND = "stages.operator.optimizer.lr", "operator.mixer"
BASE = RunConfig.parse(
    {"task": {"equation": "burgers", "files": ["data/a.h5"], "train": 8, "validation": 2, "test": 4}}
)
SEARCH = SearchConfig.parse(
    {
        "base": "configs/base.yaml",
        "space": {
            LR: {"float": [1e-5, 1.0], "log": True},
            KIND: {"choice": ["attention", "conv"]},
            "operator.depth": {"int": [1, 4], "when": {KIND: "conv"}},
        },
    }
)
SECTIONS = (
    "Result",
    "The winner",
    "Course of the search",
    "What the score depends on",
    "What trials shared",
    "Why trials stopped",
    "Best trials",
    "Confirmation",
    "What was searched",
)
VOID = {"meta", "br", "img", "hr", "link", "input"}


class Page(HTMLParser):
    """Checks that every tag is closed in order, and gathers what a reader meets."""

    def __init__(self, text):
        super().__init__()
        self.open, self.headings, self.attributes, self.texts, self.tags = [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == [], f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> is out of order"

    def handle_data(self, data):
        self.texts.append(data)
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)

    @property
    def text(self):
        return " ".join(self.texts)


def trial(number, score, state=Status.COMPLETE, reason="", params=None, milestones=None, origin="sampled", **metrics):
    chosen = {LR: 10.0 ** -(number % 5), KIND: "attention"} if params is None else params
    curve = {"operator:0.25": 0.9, "operator:0.5": 0.5} if milestones is None else milestones
    return TrialRecord(number, state, score, reason, chosen, 12.0, (), curve, 1234, origin, metrics)


TRIALS = (
    trial(0, 0.4, params={}, origin="base"),
    trial(1, 0.2, milestones={"operator:0.5": 0.3, "operator:1": 0.2}),
    trial(2, None, Status.EXPLODED, f"gradient norm 6e10 {HOSTILE}", milestones={}),
    trial(3, 0.6, Status.PRUNED, "worse than 33 % at operator:0.25"),
    trial(4, 0.05, params={LR: 0.001, KIND: "conv", "operator.depth": 3}),
    trial(5, None, Status.NOT_FINITE, "", milestones={"operator:0.25": float("inf")}),
    trial(6, None, Status.RUNNING, "", milestones={}),
)


def run(seed, score, name, status="COMPLETE"):
    return {"seed": seed, "status": status, "score": score, "reason": "", "folder": f"{name}-s{seed}"}


PROMOTION = {
    "confirmed": True,
    "verdict": "confirmed: trial 4 beats the base",
    "winner": "trial 4",
    "reference": "base",
    "seeds": [11, 12],
    "contenders": [
        {
            "name": "trial 4",
            "search_score": 0.05,
            "mean_score": 0.055,
            "changed": {LR: {"base": 0.01, "here": 0.001}},
            "runs": [run(11, 0.05, "trial4"), run(12, 0.06, "trial4")],
        },
        {
            "name": "base",
            "search_score": None,
            "mean_score": None,
            "changed": {},
            "runs": [run(11, 0.4, "base"), run(12, None, "base", "EXPLODED")],
        },
    ],
    "comparison": {"improvement": 0.35, "low": 0.3, "high": 0.4, "per_seed": [0.34, 0.36], "trajectories": 9},
    "test": {"trial 4": {"11": 0.06, "12": 0.07}, "base": {"11": 0.41, "12": None}},
    "noise_floor": {"validation": None, "test": 0.01},
    "test_reads": {"in_this_study": 1, "total": 3},
}
REPORT = {
    "metrics": {"rollout_nrmse": None},
    "protocol": {"equation": "burgers", "data": "f00d", "split": "test", "trajectories": 9},
    "curves": {
        "time": [0.05, 0.1, 0.15],
        "nrmse": [0.01, 0.02, None],
        "persistence_rollout_nrmse": [0.1, 0.3, 0.9],
        "mean_rollout_nrmse": [0.99, 0.98, 0.97],
    },
}


def study(tmp_path, trials=TRIALS):
    return StudyFolder(tmp_path, SEARCH, BASE, tuple(trials))


@pytest.fixture
def full(tmp_path):
    """A study with everything: all kinds of trials, a promotion, the winner's test report."""
    for name in ("trial4-s11", "base-s11"):
        folder = tmp_path / "confirm" / name
        folder.mkdir(parents=True)
        (folder / "report.json").write_text(json.dumps(REPORT))
    return study(tmp_path)


def test_every_section_is_there(full):
    page = Page(render(full, PROMOTION))
    assert tuple(page.headings) == SECTIONS
    for expected in (
        "trial 4, validation rollout_nrmse",
        "the best is -88% against it",
        "7 of 20",
        "gradient norm 6e10",
        "worse than 33 % at operator:0.25",
        "confirmed: trial 4 beats the base",
        "Improvement on test 0.35, 95 % interval 0.3 to 0.4 over 2 seeds and 9 trajectories",
        "The test split was read 3 time(s)",
        "Error over time on test",
        "persistence",
        "initial mean",
        "Rollout nRMSE over 9 test trajectories. Ratio: the error of trial 4 divided by",
        "Learning curves",
        "milestone",
        "Best score over core-seconds",
        "1,234",
    ):
        assert expected in page.text, expected


def test_each_parameter_has_a_chart(full):
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", render(full, None))
    assert {LR, KIND, "operator.depth"} <= set(captions)


def test_what_comes_from_files_is_escaped(full):
    name = "<b>trial</b>"
    promotion = {**PROMOTION, "verdict": HOSTILE, "winner": name, "reference": name, "test": {name: {"11": 0.1}}}
    promotion["contenders"] = [
        {**PROMOTION["contenders"][0], "name": name, "changed": {HOSTILE: {"base": 1, "here": 2}}}
    ]
    page = render(full, promotion)
    assert "<script" not in page
    assert "<b>" not in page
    assert "alert(" in Page(page).text, "the words themselves are shown"


def test_nothing_is_loaded_from_elsewhere(full):
    text = render(full, PROMOTION)
    page = Page(text)
    assert not {"script", "link", "iframe", "img", "object", "base"} & {tag for tag, _ in page.tags}
    assert not [name for name, _ in page.attributes if name in ("src", "xlink:href", "srcset") or name[:2] == "on"]
    # links lead to places of the page itself
    links = [value for name, value in page.attributes if name == "href"]
    assert links == [f"#{attributes['id']}" for tag, attributes in page.tags if tag == "section"]
    assert "http:" not in text
    assert "https:" not in text
    assert "url(" not in text
    assert "@import" not in text


def test_charts_can_be_read_out(full):
    page = Page(render(full, PROMOTION))
    charts = [attributes for tag, attributes in page.tags if tag == "svg" and "aria-hidden" not in attributes]
    assert len(charts) >= 8
    assert all(chart["role"] == "img" and len(chart["aria-label"]) > 20 for chart in charts)
    regions = [attributes for tag, attributes in page.tags if attributes.get("role") == "region"]
    assert regions
    assert all(region["tabindex"] == "0" and region["aria-label"] for region in regions)
    assert dict(page.tags)["html"]["lang"] == "en"


def places(text):
    """Where every shape of the drawings begins."""
    for number in re.findall(r'(?:cx|cy|x1|x2|y1|y2)="([^"]+)"', text):
        yield float(number)
    for x, y in re.findall(r"M(-?[\d.]+) (-?[\d.]+)", text):
        yield from (float(x), float(y))


def test_marks_lie_inside_their_charts(full):
    found = list(places(render(full, PROMOTION)))
    assert len(found) > 100
    # the parameters of a trial are drawn below each other, in a higher box than the others
    assert -1 <= min(found) <= max(found) <= 441


@pytest.mark.parametrize(
    "trials",
    [
        (),
        (trial(0, None, Status.EXPLODED, "boom", milestones={}),),
        tuple(trial(number, None, Status.EXPLODED, "boom", milestones={}) for number in range(6)),
        (trial(0, 0.3),),
        tuple(trial(number, 0.3) for number in range(4)),
        (trial(0, None, Status.INFEASIBLE, "heads", milestones={}), trial(1, 0.0, milestones={"operator:1": 0.0})),
        (trial(0, 1e12), trial(1, 1e-12)),
    ],
    ids=["empty", "one exploded", "all exploded", "one", "all equal", "zero score", "wide range"],
)
def test_any_study_renders(tmp_path, trials):
    text = render(study(tmp_path, trials), None)
    assert tuple(Page(text).headings) == SECTIONS
    assert not re.search(r'="[^"]*\b(nan|inf)\b', text), "no coordinate may be lost"


def test_all_exploded_study_says_so(tmp_path):
    trials = [trial(number, None, Status.EXPLODED, "boom", milestones={}) for number in range(6)]
    text = Page(render(study(tmp_path, trials), None)).text
    assert "no trial ran to the end" in text
    assert "100% → 100%" in text


def judged(tmp_path, trials, objectives=("rollout_nrmse",), **limits):
    """A study with several objectives or with constraints."""
    changes = {
        "objective": [{"metric": name} for name in objectives],
        "constraints": {name: {"max": limit} for name, limit in limits.items()},
    }
    return StudyFolder(tmp_path, SearchConfig.parse({**SEARCH.model_dump(mode="json"), **changes}), BASE, tuple(trials))


MEASURED = (
    trial(0, 0.4, params={}, origin="base", inference_ms=2.0, peak_memory_gib=0.5),
    trial(1, 0.2, inference_ms=1.0, peak_memory_gib=0.6),
    trial(2, 0.1, inference_ms=7.5, peak_memory_gib=0.7),
    trial(3, 0.3, inference_ms=3.0, peak_memory_gib=0.4),
)


def test_several_objectives_have_a_pareto_front(tmp_path):
    text = render(judged(tmp_path, MEASURED, ("rollout_nrmse", "inference_ms")), None)
    page = Page(text)
    assert tuple(page.headings) == (*SECTIONS[:3], "Pareto front", *SECTIONS[3:])
    assert "The trials that no other one beats in all of rollout_nrmse, inference_ms." in page.text
    assert "Error against inference_ms" in page.text
    assert "2 of 4 trials that ran to the end are on the Pareto front." in page.text
    assert "ms a step" in page.text
    three = render(judged(tmp_path, MEASURED, ("rollout_nrmse", "inference_ms", "peak_memory_gib")), None)
    assert "Error against peak_memory_gib" in Page(three).text
    assert "No trial is on it yet." in Page(render(judged(tmp_path, (), ("rollout_nrmse", "parameters")), None)).text
    found = list(places(text))
    assert -1 <= min(found) <= max(found) <= 441


def test_constraints_are_shown_and_what_breaks_them_is_not_the_best(tmp_path):
    text = Page(render(judged(tmp_path, MEASURED, inference_ms=5.0), None)).text
    assert "trial 1, validation rollout_nrmse" in text
    assert "breaks a constraint: inference_ms 7.5, at most 5" in text
    assert "constraints inference_ms at most 5" in text
    none = Page(render(judged(tmp_path, MEASURED, inference_ms=0.5), None)).text
    assert "no trial holds the constraints" in none


def test_the_noise_floor_is_drawn_and_put_into_words(tmp_path):
    noise = [trial(number, 0.4 + 0.01 * (-1) ** number, params={}, origin="noise") for number in (1, 2)]
    base = trial(0, 0.4, params={}, origin="base")
    text = Page(render(study(tmp_path, (base, *noise, trial(3, 0.39))), None)).text
    assert "noise floor of the base" in text
    assert "within the noise floor: 0.39 is not below" in text
    assert "better than noise" in Page(render(study(tmp_path, (base, *noise, trial(3, 0.1))), None)).text
    assert "standard deviation of the base over 3 seeds" in Page(render(study(tmp_path, (base, *noise)), None)).text


def test_a_candidate_that_was_passed_over_is_told(full):
    promotion = {**PROMOTION, "passed_over": {"trial 1": f"inference_ms 9, at most 5 (seed 11) {HOSTILE}"}}
    text = render(full, promotion)
    assert "trial 1 was passed over: inference_ms 9, at most 5 (seed 11)" in Page(text).text
    assert "<script" not in text


def test_promotion_without_a_winner_renders(tmp_path):
    nothing = {
        **PROMOTION,
        "winner": None,
        "confirmed": False,
        "verdict": "nothing to promote: no trial ran to the end",
        "contenders": [],
        "comparison": None,
        "test": {},
        "noise_floor": {},
        "test_reads": {},
    }
    assert "nothing to promote" in Page(render(study(tmp_path), nothing)).text


def test_shares_compare_the_halves_of_sampled_trials():
    states = [Status.EXPLODED, Status.NOT_FINITE, Status.COMPLETE, Status.COMPLETE, Status.EXPLODED, Status.PRUNED]
    sampled = [trial(number, 0.1, state) for number, state in enumerate(states)]
    given = trial(9, 0.1, origin="base")
    idle = trial(10, None, Status.INFEASIBLE)
    assert diverged_shares([given, idle, *sampled]) == (pytest.approx(2 / 3), pytest.approx(1 / 3))
    assert diverged_shares([given]) is None


def test_file_is_written_where_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "load_study", lambda path: study(tmp_path))
    assert write_report(tmp_path) == tmp_path / "report.html"
    elsewhere = write_report(tmp_path, tmp_path / "new" / "page.html")
    assert elsewhere.read_text().startswith("<!doctype html>")
    with pytest.raises(UserError, match="folder"):
        write_report(tmp_path, tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_report(tmp_path, tmp_path / "file" / "page.html")


def test_study_on_disk_that_has_not_begun(tmp_path):
    (tmp_path / "study.yaml").write_text(Plan(SEARCH, BASE).to_yaml())
    page = Page(write_report(tmp_path).read_text())
    assert "0 of 20" in page.text
    assert "Nothing was promoted yet." in page.text
    with pytest.raises(UserError, match="no study here"):
        write_report(tmp_path / "nowhere")


def test_stages_stand_in_their_order_whichever_trial_was_first(tmp_path):
    def trial(number, milestones):
        return TrialRecord(number, Status.COMPLETE, 0.1, "", {LR: 0.1}, 1.0, (), milestones, 7)

    # the first trial found its operator in the store
    later = trial(0, {"diff_residual:1": 0.2, "consistency_distill:1": 0.2})
    whole = trial(1, {"operator:0.5": 0.4, "operator:1": 0.3, "diff_residual:1": 0.1})
    text = Page(render(StudyFolder(tmp_path, SEARCH, BASE, (later, whole)), None)).text
    assert "stages done: operator, diff_residual, consistency_distill" in text


def test_a_table_says_what_its_rows_are_about(full):
    page = Page(render(full, PROMOTION))
    scopes = [attributes["scope"] for tag, attributes in page.tags if tag == "th"]
    assert set(scopes) == {"col", "row"}


def test_what_came_out_stands_before_how_it_came_about(full):
    text = render(full, PROMOTION)
    order = [
        text.index(words)
        for words in ("Improvement on test", "Score over trials", "How trials ended", "<summary>Their")
    ]
    assert order == sorted(order)
    links = re.search(r"<nav.*?</nav>", text).group()
    assert re.findall(r">([^<]+)</a>", links) == list(SECTIONS)


def test_reasons_are_counted_and_parameters_not_repeated(tmp_path):
    reason = "score 0.{} at operator:0.25 is number 9 of 1{} that arrived; the best 3 go on, up to 0.1"
    stopped = [trial(n, 0.5, Status.PRUNED, reason.format(n, n), params={LR: 0.123456}) for n in range(1, 9)]
    text = render(study(tmp_path, (trial(0, 0.4, params={}, origin="base"), *stopped)), None)
    page = Page(text)
    assert "behind others at operator:0.25" in page.text
    assert "9 trials, 1 ran to the end, 8 stopped early" in page.text
    assert page.text.count("0.1235") == 0


def test_the_page_of_a_long_search_is_small(tmp_path, monkeypatch):
    monkeypatch.setattr(importance, "TREES", 1)
    monkeypatch.setattr(importance, "REPEATS", 2)
    many = [
        trial(n, 0.1 + (n * 0.618034) % 1, params={LR: 10 ** -(5 * ((n * 0.414) % 1)), KIND: "attention"})
        for n in range(500)
    ]
    stopped = [trial(n, 0.9, Status.PRUNED, f"reason {n} " * 9) for n in range(500, 1000)]
    text = render(study(tmp_path, (*many, *stopped)), None)
    assert len(text) < 400_000
    assert sum(text.count(f"<{tag}") for tag in ("path", "circle", "rect", "title", "tr")) < 1500
    assert "500 trials" in Page(text).text or "of 1000 trials" in Page(text).text


def test_pictures_of_the_winner_are_those_of_its_first_run(full, monkeypatch):
    asked = []

    def drawn(folder, split, *, name, beside):
        asked.append((folder, split, name, [each.name for each in beside]))
        return Pictures(["<figure><figcaption>Fields</figcaption></figure>"])

    monkeypatch.setattr(report, "pictures_of_run", drawn)
    assert "<figcaption>Fields</figcaption>" in render(full, PROMOTION)
    assert asked == [(full.path / "confirm" / "trial4-s11", "test", "trial 4", ["base"])]


def test_a_winner_whose_data_is_gone_still_has_a_page(full):
    page = render(full, PROMOTION)
    assert "Its fields cannot be drawn. " in page
    assert "Error over time on test" in page


@pytest.fixture
def searched(tmp_path, tiny, finished):
    """A study that goes on; its best trial is a real run, as a search leaves it."""
    shutil.copytree(finished, tmp_path / "runs" / "0004", ignore=shutil.ignore_patterns("report.json", "store"))
    return StudyFolder(tmp_path, SEARCH, RunConfig.parse(tiny), TRIALS)


class Forbidden:
    """Stands for test trajectories: they are there, and nobody may look."""

    def __get__(self, task, kind):
        raise AssertionError("test trajectories are looked at")

    def __set__(self, task, value):
        pass


def winner_of(page):
    return re.search('<section id="the-winner">.*?</section>', page, re.DOTALL)[0]


def test_before_a_promotion_the_best_trial_is_drawn_and_no_test_trajectory_is_read(
    searched, finished, fno, monkeypatch
):
    monkeypatch.setattr(Task, "test", Forbidden(), raising=False)
    for promotion in (None, {**PROMOTION, "winner": None}):
        shown = winner_of(render(searched, promotion, [fno]))
        captions = re.findall("<figcaption>(.*?)</figcaption>", shown)
        assert re.fullmatch(r"Typical validation trajectory of 4 \(number \d\)", captions[0])
        assert captions[-2:] == ["Error over time on validation", "Energy spectrum"]
        assert "Trial 4, the best so far, on validation trajectories" in shown
        assert ("`ups promote` retrains the best on fresh seeds" in shown) is (promotion is None)
        assert ("The promotion has left no test report of a winner." in shown) is (promotion is not None)
        for name in ("trial 4", f"fno: {fno}", "persistence", "initial mean", "coarse solver"):
            assert f">{name}</li>" in shown, name
        assert f'<th scope="row">fno: {fno}</th>' in shown
        assert "on test<" not in shown
    # what was forbidden is what is read where a run has been evaluated
    with pytest.raises(AssertionError, match="looked at"):
        run_page(finished)


def test_a_winner_that_never_met_the_test_split_is_drawn_as_the_best_so_far(searched):
    assert "Error over time on validation" in winner_of(render(searched, PROMOTION))


def gone(name):
    return lambda run: shutil.rmtree(run / name) if (run / name).is_dir() else (run / name).unlink()


@pytest.mark.parametrize(
    ("lose", "told"),
    [
        (shutil.rmtree, "its weights are not in runs/0004"),
        (gone("checkpoints"), "its weights are not in runs/0004"),
        (gone("result.json"), "no finished run here"),
        (lambda run: (run / "checkpoints" / "best.safetensors").write_text("half"), "damaged checkpoint"),
    ],
    ids=["another machine", "collected", "unfinished", "torn"],
)
def test_what_cannot_be_drawn_is_a_remark(searched, lose, told):
    lose(searched.path / "runs" / "0004")
    shown = winner_of(render(searched, None))
    assert "Of trial 4, the best so far, nothing is drawn: " in shown
    assert told in shown
    assert "<figure" not in shown
    assert shown.count("<p") == 1


def test_a_disk_that_answers_no_more_is_a_remark(searched, monkeypatch):
    def drawn(*given, **more):
        raise OSError(116, "Stale file handle")

    monkeypatch.setattr(report, "pictures_of_run", drawn)
    assert "Of trial 4, the best so far, nothing is drawn: " in winner_of(render(searched, None))


def test_data_that_is_gone_is_a_remark_and_beside_runs_are_refused(searched, fno, burgers_file, monkeypatch):
    hidden = burgers_file.with_suffix(".gone")
    burgers_file.rename(hidden)
    try:
        assert "put the file back" in winner_of(render(searched, None))
        with pytest.raises(UserError, match="no such file"):
            render(searched, None, [fno])
    finally:
        hidden.rename(burgers_file)


def test_beside_runs_of_a_promoted_study_come_from_their_reports(searched, finished, fno, monkeypatch):
    for name in ("trial4-s11", "base-s11"):
        shutil.copytree(finished, searched.path / "confirm" / name, ignore=shutil.ignore_patterns("store"))
    shown = winner_of(render(searched, PROMOTION, [fno]))
    assert "<figcaption>Error over time on test</figcaption>" in shown
    assert shown.count("<figcaption>Error over time") == 1
    ours, theirs = (
        json.loads((run / "report.json").read_text())["metrics"]["rollout_nrmse"] for run in (finished, fno)
    )
    assert f"fno: {fno}</th><td>{theirs:.4g}</td><td>{ours / theirs:.3g}</td>" in shown
    assert f"base</th><td>{ours:.4g}</td><td>1</td>" in shown
    other = searched.path / "other"
    shutil.copytree(fno, other)
    text = (other / "report.json").read_text()
    (other / "report.json").write_text(text.replace('"frames": 9', '"frames": 5'))
    with pytest.raises(UserError, match="frames 5 instead of 9"):
        render(searched, PROMOTION, [other])


def test_figures_become_files(full, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "load_study", lambda path: full)
    page = write_report(tmp_path, tmp_path / "page.html", tmp_path / "figures").read_text()
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert len(names) == page.count("<figure>")
    assert {"score-over-trials.svg", "learning-curves.svg", "how-trials-ended.svg", "operator-mixer.svg"} <= names
