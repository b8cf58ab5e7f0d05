"""The shipped golden config beside what it was compared with, and beside FNO.

    python benchmarks/golden_table.py PROMOTION.json ...   # records that `ups promote` left in the study
    python benchmarks/golden_table.py                      # the section of RESULTS.md again, from the JSON

Trains nothing: the promotions did, and FNO's errors are those of `ups_vs_fno.py`, on the same task and test split.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean

import common
from common import number, spread, table
from pairs import Data, mean_error
from peers import WORDS

from ups.core.errors import UserError

OUT = Path("benchmarks/results/golden.json")
PEERS = Path("benchmarks/results/ups_vs_fno_nu0.01.json")
NAMES = {"base": "`burgers1d_small`, 12 epochs (the base)", "golden": "`burgers1d_golden_v2` on this task"}


def collect(promotions: Sequence[Data], peers: Data) -> Data:
    """What the section tells of promotions of one study, and of the runs of `ups_vs_fno.py`.

    Raises:
        UserError: a promotion read no test split, or the promotions chose different winners.
    """
    winners = {each["winner"] for each in promotions}
    if len(winners) != 1 or any(each["comparison"] is None for each in promotions):
        raise UserError("promotions: all must have read the test split for the same winner")
    found = [
        {
            **{name: each[name] for name in ("winner", "reference", "seeds", "test", "comparison", "verdict")},
            "seconds": _of_runs(each, lambda run: run["seconds"]),
            "inference_ms": _of_runs(each, lambda run: run["metrics"]["inference_ms"]),
        }
        for each in promotions
    ]
    rows = {
        model: {
            "seconds": peers["protocol"]["seconds"],
            "test": [mean_error(run["errors"]["reencode"]) for run in peers["models"][model]["runs"]],
        }
        for model in ("ups", "fno_frame", "fno", "fno_plain")
    }
    return {"promotions": found, "peers": rows}


def _of_runs(promotion: Data, read: Callable[[Data], float]) -> dict[str, list[float]]:
    """Contender -> what is read of each of its runs."""
    return {each["name"]: [read(run) for run in each["runs"]] for each in promotion["contenders"]}


def render(data: Data) -> str:
    """The section of RESULTS.md."""
    first = data["promotions"][0]
    winner = first["winner"]
    rows = [_row(f"**golden** ({winner} of the search)", first, winner)]
    rows += [_row(NAMES[each["reference"]], each, each["reference"]) for each in data["promotions"]]
    rows += [
        [WORDS[model], f"{found['seconds']:.0f}", "", spread(found["test"])] for model, found in data["peers"].items()
    ]
    beaten = [
        WORDS[model] for model, found in data["peers"].items() if fmean(found["test"]) < fmean(_test(first, winner))
    ]
    told = [
        f"Against {NAMES[each['reference']]}: {each['verdict']}; improvement "
        f"{number(each['comparison']['improvement'])}, 95 % interval {number(each['comparison']['low'])} to "
        f"{number(each['comparison']['high'])} over {len(each['seeds'])} seeds and "
        f"{each['comparison']['trajectories']} trajectories."
        for each in data["promotions"]
    ]
    return "\n\n".join([
        "## The golden config, Burgers nu = 0.01",
        "`configs/golden/burgers1d.yaml`, found by a search of `burgers1d_small` (operators of 12 short epochs) and "
        "confirmed by `ups promote`. nRMSE of 40 frames from one on 64 test trajectories, as deployed, mean ± standard "
        "deviation over seeds; the golden with its search at test time. The first three rows were retrained on the "
        "promotion's fresh seeds, two at a time on a machine that was busy with other work: their seconds, and the "
        "milliseconds of a rollout, are by the clock, and more than they need. The others are those of `ups_vs_fno.py` "
        "with 200 s of training each.",
        table(["", "training, s", "rollout, ms", "nRMSE"], rows),
        *_smaller(beaten),
        *told,
        f"Retrained with {', '.join(map(str, first['seeds']))} as seeds, 2 cores of an AMD EPYC; the file's "
        "`provenance` has hardware, versions and commit.",
    ])  # fmt: skip


def _smaller(beaten: Sequence[str]) -> list[str]:
    """What a reader of the table must not overlook."""
    names = ", ".join(beaten)
    return (
        [f"**{names}: smaller errors than the golden's.** Its search looked among short operators."] if beaten else []
    )


def _row(words: str, promotion: Data, name: str) -> list[str]:
    seconds, milliseconds = (fmean(promotion[what][name]) for what in ("seconds", "inference_ms"))
    return [words, f"{seconds:.0f}", number(milliseconds), spread(_test(promotion, name))]


def _test(promotion: Data, name: str) -> list[float]:
    return list(promotion["test"][name].values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("promotions", nargs="*", type=Path, metavar="PROMOTION.json")
    parser.add_argument("--results", type=Path, default=common.RESULTS, help=f"[{common.RESULTS}]")
    args = parser.parse_args()
    if args.promotions:
        found = [json.loads(path.read_text()) for path in args.promotions]
        common.write_json(OUT, collect(found, json.loads(PEERS.read_text())))
    common.update_section(args.results, "golden", render(json.loads(OUT.read_text())))
    common.say(f"wrote {args.results}")


if __name__ == "__main__":
    sys.exit(common.exit_code(main))
