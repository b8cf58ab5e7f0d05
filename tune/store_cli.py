"""`ups store`: what an artifact store holds, what each artifact saves, and how to keep the store within a size."""

from __future__ import annotations

import json as json_module
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tune.sizes import parse_size, shown_size
from ups.cli.terminal import console, say
from ups.core.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from tune.study import StudyFolder
    from ups.core.store import Artifact, GcResult, Store

store_app = typer.Typer(
    help="The artifact store: finished stages that no trial trains again.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)
Place = Annotated[
    str,
    typer.Argument(help="A STUDY folder, or a store: a folder such as RUN/store, or a URI.", metavar="STUDY|STORE"),
]


@store_app.command("ls")
def ls(
    place: Place,
    json: Annotated[Path | None, typer.Option(help="Write every artifact to this file, too.", dir_okay=False)] = None,
) -> None:
    """List the artifacts of a store, those first that a collection would remove first.

    Example: ups store ls runs/demo --json artifacts.json
    """
    from ups.core.runtime import write_atomic

    store, _ = _opened(place)
    found = store.ls()
    console().print(_table(str(store), found))
    if json is not None:
        write_atomic(json, (json_module.dumps([_plain(artifact) for artifact in found], indent=1) + "\n").encode())


@store_app.command("gc")
def gc(
    place: Place,
    max_size: Annotated[str, typer.Option(help="What the store may hold, such as 500MB, 50GB or 1.5TiB.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Remove nothing, show what would go.")] = False,
) -> None:
    """Remove the artifacts that were not used for longest until the store fits into a size.

    Never removed: what a study needs (its base, its best trials, trials that have not ended, promotions), and what a
    process makes or works with right now. Another study on the same store is asked by what it pinned last.

    Example: ups store gc runs/demo --max-size 50GB --dry-run
    """
    from tune.pinning import pin_study

    try:
        limit = parse_size(max_size)
    except UserError as error:
        raise UserError(f"--max-size: {error}") from None
    store, study = _opened(place)
    if study is not None:
        pin_study(study, store)
    found = store.gc(limit, dry_run=dry_run)
    if found.removed:
        console().print(_table("would be removed" if dry_run else "removed", found.removed))
    print(_summary(found, dry_run))
    if not found.fits:
        say(_too_much(store, found), 1)
        raise typer.Exit(1)


def _opened(place: str) -> tuple[Store, StudyFolder | None]:
    """The store, and the study whose it is, if a study was named.

    Raises:
        UserError: neither a study nor a store.
    """
    from tune.study import load_study
    from ups.core.remote_store import open_store

    if Path(place, "study.yaml").exists():
        study = load_study(Path(place))
        return open_store(study.store), study
    store = open_store(place)
    if not store.is_there:
        raise UserError(f"{store}: no artifact store here; name a STUDY, or the folder of a store such as RUN/store")
    return store, None


def _table(title: str, artifacts: Sequence[Artifact]) -> Table:
    from rich.table import Table

    from tune.live import shown_seconds

    now = time.time()
    table = Table(title=title, title_justify="left")
    for name in ("kind", "size", "saves", "age", "last use", "protected", "key"):
        table.add_column(name, justify="right" if name in ("size", "saves", "age", "last use") else "left")
    for each in artifacts:
        table.add_row(
            each.what,
            shown_size(each.bytes),
            shown_seconds(each.seconds),
            shown_seconds(max(0.0, now - each.created)),
            f"{shown_seconds(max(0.0, now - each.last_used))} ago",
            ", ".join(word for word, is_so in (("pinned", each.pinned), ("in use", each.leased)) if is_so) or "–",
            each.key[:12],
        )
    size, seconds = sum(each.bytes for each in artifacts), sum(each.seconds for each in artifacts)
    table.caption = f"{len(artifacts)} artifacts, {shown_size(size)}, {shown_seconds(seconds)} of work"
    table.caption_justify = "left"
    return table


def _summary(found: GcResult, dry_run: bool) -> str:
    freed = shown_size(found.bytes_before - found.bytes_after)
    words = ("would remove", "would leave") if dry_run else ("removed", "left")
    lost = sum(artifact.seconds for artifact in found.removed)
    return (
        f"{words[0]} {len(found.removed)} artifacts, {freed} ({lost:.0f} s of work); "
        f"{words[1]} {shown_size(found.bytes_after)}"
    )


def _too_much(store: Store, found: GcResult) -> str:
    owners = ", ".join(sorted(store.pins())) or "nobody"
    return (
        f"{store}: {shown_size(found.bytes_protected)} are protected, more than {shown_size(found.max_bytes)} "
        f"(in use, being written, or pinned by: {owners}); a pin of a study that is no more is a file in {store}/pins"
    )


def _plain(artifact: Artifact) -> dict[str, str | int | float | bool]:
    return {name: value for name, value in vars(artifact).items() if name != "name"}
