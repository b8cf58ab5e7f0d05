"""`ups config`: show, compare and import configs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

config_app = typer.Typer(help="Show, compare and import configs.")

Config = Annotated[str, typer.Argument(help="A YAML file, or the bare name of a shipped config.", metavar="CONFIG")]
Overrides = Annotated[list[str] | None, typer.Argument(help="Values to replace.", metavar="[path=value ...]")]


@config_app.command("show")
def config_show(config: Config, overrides: Overrides = None) -> None:
    """Print the complete config, defaults and includes filled in.

    Example: ups config show burgers1d latent.tokens=32
    """
    from ups.config import dump_yaml, load_config, parse_overrides

    print(dump_yaml(load_config(config, parse_overrides(overrides or []))), end="")


@config_app.command("diff")
def config_diff(
    a: Annotated[str, typer.Argument(help="A config.", metavar="A")],
    b: Annotated[str, typer.Argument(help="Another one.", metavar="B")],
) -> None:
    """List the values in which two configs differ.

    Example: ups config diff burgers1d runs/first/config.yaml
    """
    from ups.config import diff, load_config

    for path, (left, right) in diff(load_config(a), load_config(b)).items():
        print(f"{path}: {left} -> {right}")


@config_app.command("import")
def config_import(
    old: Annotated[Path, typer.Argument(help="A golden file of the earlier system.", metavar="OLD.yaml")],
    base: Annotated[str, typer.Option(help="Says what the old format does not: data, encoder, decoder.")] = "burgers1d",
    out: Annotated[Path | None, typer.Option(help="Write the config to this file. [printed]", dir_okay=False)] = None,
) -> None:
    """Turn a config of the earlier system into one of this, and list what was mapped, derived and dropped.

    Example: ups config import old_golden.yaml --out configs/mine.yaml
    """
    from ups.config_import import import_config
    from ups.core.errors import UserError
    from ups.core.runtime import write_atomic

    if out is not None and out.exists():
        raise UserError(f"--out: {out} exists already; choose another file")
    imported = import_config(old, base)
    if out is None:
        print(imported.to_yaml(), end="")
        return
    write_atomic(out, imported.to_yaml().encode())
    for line in imported.lines():
        print(line)
    print(out)
