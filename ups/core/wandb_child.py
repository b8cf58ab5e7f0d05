"""The process that speaks to wandb for one run, see `ups.core.tracking`: a program that imports nothing of ups.

It is told one JSON object a line: first how to begin, then reports and files, at last the end. It answers `started`,
then `done` or `failed`. The end of its input without a word is that of a process that was killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Callable, Iterable, Mapping
from typing import Any

Answer = Callable[[Mapping[str, Any]], None]


def main() -> None:
    lines = os.fdopen(os.dup(0))
    answers = os.fdopen(os.dup(1), "w")
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):  # wandb's service has them, too, and must not hold the pipes open
        os.dup2(nothing, stream)

    def answer(said: Mapping[str, Any]) -> None:
        # nobody listens where the run's process was killed, and what it has told is written all the same
        with contextlib.suppress(BrokenPipeError):
            answers.write(json.dumps(said) + "\n")
            answers.flush()

    try:
        run_page(lines, answer)
    except BaseException as error:
        answer({"failed": in_words(error)})
        # not through the hooks of wandb, which would wait for what has just failed
        os._exit(1)


def run_page(lines: Iterable[str], answer: Answer) -> None:
    first = json.loads(next(iter(lines)))
    import wandb

    run = wandb.init(
        **{name: first[name] for name in ("mode", "project", "entity", "id", "dir", "name", "group", "job_type")},
        config=first["config"],
        resume="allow",
        reinit="create_new",
        settings=wandb.Settings(
            silent=True,
            console="off",
            init_timeout=first["seconds"],
            # of this process they say nothing; and paths, hosts and programs are nobody's business
            x_disable_meta=True,
            x_disable_machine_info=True,
            x_save_requirements=False,
            disable_git=True,
            disable_code=True,
            x_stats_pid=os.getppid(),
        ),
    )
    answer({"started": True})
    stages: set[str] = set()
    for line in lines:
        told = json.loads(line)
        if "progress" in told:
            log_progress(run, told["progress"], stages)
        elif "artifact" in told:
            given = told["artifact"]
            artifact = wandb.Artifact(given["name"], type=given["kind"], metadata=given["facts"])
            artifact.add_file(given["path"])
            run.log_artifact(artifact)
        else:
            signal.alarm(round(first["end_seconds"]))  # whoever would end this process may be gone
            run.summary.update(told["end"]["summary"])
            run.finish(exit_code=told["end"]["code"])
            answer({"done": True})
            break
    else:
        signal.alarm(round(first["end_seconds"]))
        words = last_words(first["last_words"])
        run.summary.update(words)
        run.finish(exit_code=0 if words else 1)
    if first["last_words"] is not None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(first["last_words"])
    wandb.teardown()


def last_words(place: str | None) -> dict[str, Any]:
    """How a run ended whose process was killed, where somebody has left that."""
    if place is None or not os.path.exists(place):
        return {}
    with open(place, encoding="utf-8") as stream:
        return json.load(stream)


def log_progress(run: Any, progress: dict[str, Any], stages: set[str]) -> None:
    """One report, over the steps of its stage."""
    stage = progress.pop("stage")
    if stage not in stages:
        stages.add(stage)
        run.define_metric(f"{stage}/step")
        run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")
    values = {"rollout_nrmse": progress.pop("score"), **progress.pop("detail"), **progress}
    run.log({f"{stage}/{name}": value for name, value in values.items() if value is not None})


def in_words(error: BaseException) -> str:
    said = f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
    key = os.environ.get("WANDB_API_KEY")
    return said.replace(key, "...") if key else said


if __name__ == "__main__":
    main()
