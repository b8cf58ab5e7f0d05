"""One run from config to report, in the order in which it happens."""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from ups.config import RunConfig, dump_yaml, load_config
from ups.core.errors import DataError, UserError
from ups.core.ranks import ALONE, Ranks
from ups.core.remote_store import open_store
from ups.core.runtime import compiles, drop_half_line, pick_device, write_atomic
from ups.core.types import FieldSpec, Progress, Report, RunResult, Status
from ups.data.normalization import Normalizer
from ups.data.task import Task, load_task
from ups.evaluation.evaluate import evaluate_run
from ups.evaluation.latency import inference_ms
from ups.evaluation.report import FILE_NAME, save_report
from ups.evaluation.runs import RESULT, load_result
from ups.evaluation.searched import with_search
from ups.inference.surrogate import Surrogate
from ups.training.keys import key_until, stage_keys
from ups.training.pipeline import Pipeline
from ups.training.stage_order import DEPLOYED_AS
from ups.training.stage_results import await_stages


def ignore(progress: Progress) -> None:
    """The report that goes nowhere."""


def train_run(
    config: RunConfig,
    out: Path,
    report: Report = ignore,
    *,
    resume: bool = False,
    evaluate_on: Literal["test", "none"] = "test",
    task: Task | None = None,
    store: Path | str | None = None,
    busy: Literal["wait", "raise"] = "wait",
    ranks: Ranks = ALONE,
) -> RunResult:
    """Train what `config` says into the folder `out`.

    Stages that `store`, a folder or a URI, holds are taken from there and new ones are published to it; by default a
    run keeps its artifacts to itself, in `out/store`. A stage that another process trains into the same store right now
    is waited for, or, with `busy="raise"`, refused, which leaves the run resumable.

    Expected failures (EXPLODED, NOT_FINITE, STALLED, OUT_OF_MEMORY) are a status of the result. With `resume`, a
    finished run returns its recorded result and an unfinished one goes on from `last`, exactly on one device.
    What `report` raises passes through and leaves the run resumable.

    Of several `ranks` each calls this with the same arguments, on a device of its own; they train on their parts of
    the same batches, and come to what one would come to up to rounding. Rank 0 alone writes and calls `report`;
    whatever is raised is raised on all of them. A run may be resumed with another number of ranks.

    Raises:
        UserError: `out` holds another run, or data and config do not fit.
        StageBusy: `busy` is "raise", and another process trains the first stage that is missing.
    """
    known = ranks.lead(lambda: _known(config, out, resume))
    if known is not None:
        return known
    with ranks.agreed():
        task = task or load_task(config.task)
    _refuse_other_data(task, ranks)
    keys, artifacts, wait = stage_keys(config, task.fingerprint), open_store(store or out / "store"), busy == "wait"
    # while it waits, a run has nothing on the device
    ranks.lead(lambda: await_stages(keys, artifacts, out, wait=wait))
    device = pick_device(config.runtime.device)
    if config.runtime.threads:
        torch.set_num_threads(config.runtime.threads)
    with ranks.agreed():
        surrogate = build_run_surrogate(config, task).to(device)
        _refuse_what_does_not_fit(config, task, surrogate, device, ranks)
    with contextlib.ExitStack() as stack:

        def begin() -> None:
            nonlocal report
            write_atomic(out / "config.yaml", dump_yaml(config).encode())
            write_atomic(out / "split.json", json.dumps(task.manifest).encode())
            drop_half_line(out / "progress.jsonl")
            lines = stack.enter_context(open(out / "progress.jsonl", "a", encoding="utf-8"))
            report = _both(_to_lines(lines), report)

        # from here on nothing that a user wrote can be refused: no folder is left half-written
        ranks.lead(begin)
        pipeline = Pipeline(
            config=config,
            stages=config.stages,
            runtime=config.runtime,
            logging=config.logging,
            task=task,
            surrogate=surrogate,
            folder=out,
            store=artifacts,
            facts=_facts(config, surrogate, task),
            report=report,
            resume=resume,
            keys=keys,
            key_until=partial(key_until, config, task.fingerprint),
            wait=wait,
            ranks=ranks,
        )
        status, reason = pipeline.run()
    return ranks.lead(lambda: _conclude(out, pipeline, status, reason, evaluate=evaluate_on == "test"))


def _known(config: RunConfig, out: Path, resume: bool) -> RunResult | None:
    """The recorded result of a run that is finished; None of one that is to be trained.

    Raises:
        UserError: `out` holds something else.
    """
    check_folder(config, out, resume)
    return load_result(out) if resume and (out / RESULT).is_file() else None


def _conclude(out: Path, pipeline: Pipeline, status: Status, reason: str, *, evaluate: bool) -> RunResult:
    """Save the predictor, measure and evaluate it, and write down how the run ended."""
    milliseconds, task = None, pipeline.task
    if pipeline.can_deploy:
        pipeline.save(out / "checkpoints" / "best.safetensors")
        deployed = pipeline.deploy()
        if status is Status.COMPLETE:
            milliseconds = inference_ms(deployed, task.validation)
        if status is Status.COMPLETE and evaluate:
            evaluation = with_search(evaluate_run(deployed, task, "test"), deployed, task.test)
            stages = {name: each.to_json() for name, each in pipeline.summaries.items()}
            save_report(replace(evaluation, stages=stages), out / FILE_NAME)
    return _finish(out, pipeline, status, reason, milliseconds)


def _refuse_other_data(task: Task, ranks: Ranks) -> None:
    """Raises DataError where the files of this rank's node are not those of rank 0's."""
    wanted = ranks.lead(lambda: task.fingerprint)
    with ranks.agreed():
        if task.fingerprint != wanted:
            raise DataError(
                f"{', '.join(task.config.files)}: differ on the node of rank {ranks.rank} from those on the node of "
                "rank 0; copy the same files to every node"
            )


def _refuse_what_does_not_fit(
    config: RunConfig, task: Task, surrogate: Surrogate, device: torch.device, ranks: Ranks
) -> None:
    """Raises ConfigError for what only config, data and machine together can tell, before anything is trained."""
    compiles(config.runtime.compile, device)
    config.stages.operator.losses.check(task.spec, symmetry=config.symmetry, has_latent=surrogate.has_latent)
    config.stages.operator.optimizer.build(surrogate)
    for name in ("operator", *config.stages.later()):
        ranks.part(getattr(config.stages, name).batch_size, f"stages.{name}.batch_size")
    if config.ttc.enabled:
        config.ttc.reward.weights(task.spec)
    for name in config.stages.later():
        correction = config.build_correction(DEPLOYED_AS[name], task.spec)
        getattr(config.stages, name).optimizer.build(correction)


def build_run_surrogate(config: RunConfig, task: Task) -> Surrogate:
    """The untrained model of a run; its weights are determined by `runtime.seed`."""
    parameters = tuple(sorted({tuple(map(float, row)) for row in task.train.parameters_SP}))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.runtime.seed)
        return config.build(task.spec, task.normalizer, parameters)


def count_parameters(config: RunConfig, spec: FieldSpec) -> int:
    """Trainable numbers of a config's model and of what its later stages train, without allocating them.

    Raises:
        ConfigError: the model does not fit the task's grid (an INFEASIBLE trial).
    """
    return count_model(config, spec) + sum(count_correction(config, stage, spec) for stage in config.stages.later())


def count_model(config: RunConfig, spec: FieldSpec) -> int:
    """Of the model alone; raises as `count_parameters`."""
    unit = Normalizer((0.0,) * spec.channels, (1.0,) * spec.channels)
    with torch.device("meta"):
        return _count(config.build(spec, unit, ((1.0,) * len(spec.parameter_names),)))


def count_correction(config: RunConfig, stage: str, spec: FieldSpec) -> int:
    """Of what a later stage trains; raises as `count_parameters`."""
    with torch.device("meta"):
        return _count(config.build_correction(DEPLOYED_AS[stage], spec))


def _count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def check_folder(config: RunConfig, out: Path, resume: bool) -> None:
    """Raises UserError unless `out` is free for a new run, or, with `resume`, holds this one."""
    recorded = out / "config.yaml"
    if recorded.is_file():
        if not resume:
            raise UserError(f"{out}: holds a run already; choose another folder or continue it with --resume")
        if identity(load_config(recorded)) != identity(config):
            raise UserError(f"{out}: holds a run of another config; choose another folder")
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: exists and is not a run folder; choose another folder")


def identity(config: RunConfig) -> str:
    """Fingerprint of what determines a run's weights: provenance and logging do not enter."""
    return config.model_copy(
        update={"provenance": None, "logging": RunConfig.model_fields["logging"].default}
    ).fingerprint()


def _facts(config: RunConfig, surrogate: Surrogate, task: Task) -> dict[str, Any]:
    """What a checkpoint needs to be a predictor on its own."""
    return {
        "config": config.model_dump(mode="json"),
        "spec": task.spec.to_json(),
        "normalizer": task.normalizer.to_json(),
        "training_parameters": list(surrogate.training_parameters),
        "data": task.fingerprint,
    }


def _finish(out: Path, pipeline: Pipeline, status: Status, reason: str, milliseconds: float | None) -> RunResult:
    summaries = pipeline.summaries
    result = RunResult(
        status=status,
        reason=reason,
        score=pipeline.score,
        milestones=pipeline.milestones,
        seconds=pipeline.seconds,
        parameters=sum(each.parameters for each in summaries.values()),
        folder=out,
        reused_stages=tuple(name for name, each in summaries.items() if each.reused),
        stages={name: each.to_json() for name, each in summaries.items()},
        stage_keys=dict(pipeline.keys),
        peak_memory_gib=max((each.peak_memory_gib for each in summaries.values()), default=None),
        inference_ms=milliseconds,
    )
    plain = {**asdict(result), "folder": None}
    write_atomic(out / RESULT, json.dumps(plain, indent=1).encode())
    return result


def _both(first: Report, second: Report) -> Report:
    def report(progress: Progress) -> None:
        first(progress)
        second(progress)

    return report


def _to_lines(stream: Any) -> Report:
    def report(progress: Progress) -> None:
        stream.write(json.dumps(asdict(progress)) + "\n")
        stream.flush()

    return report
