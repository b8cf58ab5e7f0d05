"""What the environment knows and nobody is to read: it never lands in what a search writes or says."""

from __future__ import annotations

import os
import subprocess
import sys

import yaml

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
commands = ["search space.yaml --out study", "report study", "trials study --json trials.json"]
sys.exit(max(run_app(app, command.split()) for command in commands))
"""


def test_secrets_stay_in_the_environment(tiny, tmp_path):
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(tiny))
    space = {"base": "base.yaml", "space": {"latent.tokens": {"choice": [4, 8]}}, "strategy": {"trials": 2}}
    (tmp_path / "space.yaml").write_text(yaml.safe_dump({**space, "resources": {"concurrency": 1}}))
    found = subprocess.run(
        [sys.executable, "-c", CODE],
        cwd=tmp_path,
        env={**os.environ, **SECRETS},
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert found.returncode == 0, found.stderr
    said = found.stdout + found.stderr
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.name == "report.html" for path in files)
    for secret in SECRETS.values():
        assert secret not in said
        assert not [path for path in files if secret.encode() in path.read_bytes()]
