"""The pictures of the README, from a study that was searched and promoted: `make demo`, then `make pictures`.

python docs/pictures.py [STUDY]     # runs/demo; writes docs/pictures/
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from tune.report import write_report

FOLDER = Path(__file__).parent / "pictures"
PICTURES = {
    "search.svg": "score-over-trials.svg",
    "winner.png": "typical-test-trajectory-number-*[0-9].png",
}
"""name here -> name of the report's figure"""


def make(study: Path, folder: Path = FOLDER) -> list[Path]:
    """Copy the figures of the study's report that the README shows, and give their names.

    Raises:
        UserError: no study there.
        SystemExit: the report lacks a figure, because nothing was promoted.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        write_report(study, Path(temporary) / "report.html", Path(temporary))
        for name, pattern in PICTURES.items():
            found = sorted(Path(temporary).glob(pattern))
            if not found:
                raise SystemExit(f"{study}: its report has no {pattern}; promote it first")
            shutil.copyfile(found[0], folder / name)
    return [folder / name for name in PICTURES]


if __name__ == "__main__":
    for path in make(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/demo")):
        print(path)
