"""What the environment knows and nobody is to read: it never lands in what a search writes or says, its store on a
server of the S3 protocol included."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import yaml
from s3_server import S3Server

SECRETS = {
    "WANDB_API_KEY": "wandb-3f9b1c",
    "AWS_SECRET_ACCESS_KEY": "aws-77d0aa",
    "PGPASSWORD": "database-51c2ef",
    "RAY_AUTH_TOKEN": "5ec7e7" * 10,
}
CODE = """
import sys
from tune.cli import app
from ups.cli.terminal import run_app
commands = [
    f"search space.yaml --out study --store {sys.argv[1]}",
    "report study",
    "trials study --json trials.json",
    "store ls study",
    "store gc study --max-size 0",
]
sys.exit(max(run_app(app, command.split()) for command in commands))
"""


def test_secrets_stay_in_the_environment(tiny, tmp_path: Path, s3: S3Server):
    uri = s3.bucket()
    (tmp_path / "base.yaml").write_text(yaml.safe_dump({**tiny, "logging": {"wandb": {"mode": "offline"}}}))
    space = {"base": "base.yaml", "space": {"latent.tokens": {"choice": [4, 8]}}, "strategy": {"trials": 2}}
    (tmp_path / "space.yaml").write_text(yaml.safe_dump({**space, "resources": {"concurrency": 1}}))
    found = subprocess.run(
        [sys.executable, "-c", CODE, uri],
        cwd=tmp_path,
        env={**os.environ, **SECRETS},
        capture_output=True,
        text=True,
        timeout=1200,
    )
    # what the study needs is more than nothing, so the collection says 1, and removes nothing
    assert found.returncode == 1, found.stderr
    assert f"{uri}: " in found.stderr.splitlines()[-1]
    assert "are protected, more than 0 B" in found.stderr.splitlines()[-1]
    said = found.stdout + found.stderr
    stored = s3.contents(uri)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.name == "report.html" for path in files)
    assert len([path for path in files if path.suffix == ".wandb"]) == 2
    for secret in SECRETS.values():
        assert secret not in said
        assert not [path for path in files if secret.encode() in path.read_bytes()]
        assert not [name for name, content in stored.items() if secret.encode() in content]
    # the stages lie there and nowhere else, and so does what a lost driver is replaced with
    assert "2 artifacts" in found.stdout
    assert not (tmp_path / "study" / "store").exists()
    copies = {name.rpartition("/")[2]: content for name, content in stored.items() if name.startswith("studies/study-")}
    assert copies == {name: (tmp_path / "study" / name).read_bytes() for name in ("study.yaml", "journal.log")}
