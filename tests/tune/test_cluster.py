"""A search and `ups doctor` on real clusters of raylets, through the command line and in processes of their own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from raylets import Raylets

import tune
from tune import doctor
from tune.doctor import shared_store, token
from ups.core import objects
from ups.core.errors import UserError

CODE = "import sys; from tune.cli import main; sys.exit(main())"

SEARCH = """
import json, sys, time
from pathlib import Path
from tune.search import run_search
from tune.space import SearchConfig
from tune.study import Plan
from ups.config import RunConfig
from ups.core.types import RunResult, Status

address, folder = sys.argv[1], Path(sys.argv[2])

def train(config, out, report, *, resume, evaluate_on, store, busy):
    import os, ray, tune
    node, resources = ray.get_runtime_context().get_node_id(), ray.get_runtime_context().get_assigned_resources()
    out.mkdir(parents=True, exist_ok=True)
    seen = {"node": node, "code": tune.__file__, "resources": resources, "secret": os.environ.get("WANDB_API_KEY")}
    (out / "seen").write_text(json.dumps(seen))
    # a trial keeps its node until there is one on another node, too: one node alone could do them all
    deadline = time.time() + 100
    while all(node in path.read_text() for path in out.parent.glob("*/seen")) and time.time() < deadline:
        time.sleep(0.1)
    return RunResult(Status.COMPLETE, "", 0.5, {"operator:1": 0.5}, 1.0, 7, out)

task = {"equation": "burgers", "files": ["a.h5"], "train": 8, "validation": 4, "test": 4}
space = {"latent.tokens": {"choice": [16, 32, 64, 128, 256, 24]}}
config = {"base": "b", "space": space, "strategy": {"trials": 6, "sampler": "random", "scheduler": "none"},
          "resources": {"memory_gib_per_worker": 0.1}}
print("started", flush=True)
summary = run_search(Plan(SearchConfig.parse(config), RunConfig.parse({"task": task}), ()), folder, trainer=train,
                     address=address)
print(json.dumps([record.state for record in summary.records]))
"""


@pytest.fixture(scope="module")
def cluster():
    found = Raylets()
    yield found
    found.close()


def ups(cluster, *arguments, **environment):
    return subprocess.run(
        [sys.executable, "-c", CODE, *map(str, arguments)],
        env={**cluster.environment, **environment},
        capture_output=True,
        text=True,
        timeout=900,
    )


def test_a_search_uses_a_node_that_joins_late_with_the_code_of_the_driver(cluster, tmp_path):
    environment = {**cluster.environment, "WANDB_API_KEY": "of-the-driver"}
    driver = subprocess.Popen(
        [sys.executable, "-c", SEARCH, cluster.address, str(tmp_path / "s")],
        env=environment,
        cwd=tmp_path,  # Ray gives its workers the driver's own search path, and this folder has the code
        stdout=subprocess.PIPE,
        text=True,
    )
    assert driver.stdout is not None
    assert driver.stdout.readline() == "started\n"
    cluster.add(num_cpus=1)
    out, _ = driver.communicate(timeout=900)
    assert json.loads(out) == ["COMPLETE"] * 6
    seen = [json.loads(path.read_text()) for path in sorted((tmp_path / "s" / "runs").glob("*/seen"))]
    assert len({each["node"] for each in seen}) == 2
    for each in seen:
        assert each["code"] != tune.__file__
        assert "py_modules" in each["code"]
        assert each["resources"] == {"CPU": 1.0, "memory": pytest.approx(0.1 * 2**30, rel=1e-3)}
        # what the driver knows stays with it
        assert each["secret"] is None
    assert not list((tmp_path / "s").glob(".shared-*"))
    cluster.remove()


def test_what_can_never_be_placed_is_refused_before_there_is_a_study(cluster, tmp_path, tiny):
    (tmp_path / "base.yaml").write_text(json.dumps(tiny))
    space = {"base": "base.yaml", "space": {"latent.tokens": {"choice": [4, 8]}}, "resources": {"cpus_per_worker": 2}}
    (tmp_path / "space.yaml").write_text(json.dumps(space))
    found = ups(cluster, "search", tmp_path / "space.yaml", "--address", cluster.address, "--out", tmp_path / "s")
    assert found.returncode == 2
    words = "resources.cpus_per_worker: at most 1, which is the most CPUs of any one node, got 2"
    assert words in found.stderr
    assert len(found.stderr.splitlines()) == 1
    assert not (tmp_path / "s").exists()


def test_who_has_another_token_is_refused(cluster):
    found = ups(cluster, "doctor", "--address", cluster.address, RAY_AUTH_TOKEN="f" * 64)
    assert found.returncode == 1
    assert "WRONG  cluster: the cluster at" in found.stdout
    assert "does not accept this token" in found.stdout


def test_the_doctor_looks_at_every_node_and_at_what_is_broken(cluster, tmp_path):
    cluster.add(num_cpus=1, num_gpus=1)
    found = ups(cluster, "doctor", "--address", cluster.address, "--store", tmp_path / "store")
    lines = [line for line in found.stdout.splitlines() if " disk [" not in line]
    wrong = [line for line in lines if line.startswith("WRONG")]
    # a GPU that a node only says it has
    assert len(wrong) == 1
    assert "Ray hands out 1, torch can use 0; check `nvidia-smi` there" in wrong[0]
    # a head that was started without a dashboard
    (dashboard,) = (line for line in lines if line.startswith("ok     dashboard: its process does not answer"))
    assert "no search needs it" in dashboard
    assert found.returncode == 1
    for what, count in {"token": 1, "cluster": 1, "versions [": 2, "GPU [": 1, "store [": 2}.items():
        assert sum(line.startswith(f"ok     {what}") for line in lines) == count, found.stdout
    assert os.listdir(tmp_path / "store") == []
    cluster.remove()
    # no folder can be made below a file
    (tmp_path / "file").touch()
    found = ups(cluster, "doctor", "--address", cluster.address, "--store", tmp_path / "file" / "store")
    assert found.returncode == 1
    assert found.stdout.count("cannot write (NotADirectoryError") == 2  # here, and on the node


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("search", "demo", "--address", "127.0.0.1:1"), "no Ray cluster answers at 127.0.0.1:1; start one with"),
        (("doctor", "--address", "ray://127.0.0.1:1"), "a search has to run on a machine of the cluster"),
        (("doctor", "--store", "s3://key:secret@bucket/x"), "credentials belong into the environment"),
    ],
)
def test_a_mistake_in_the_command_is_one_line(arguments, words, monkeypatch, capfd):
    from tune.cli import app
    from ups.cli.terminal import run_app

    monkeypatch.chdir(Path(__file__).parents[2])
    monkeypatch.setattr("tune.fit.fit_to_data", lambda plan: (None, None))
    monkeypatch.setattr("tune.search.fit_to_data", lambda plan: (None, None))
    assert run_app(app, list(arguments)) == 2
    said = capfd.readouterr().err
    assert words in said
    assert len(said.splitlines()) == 1
    assert "secret" not in said


def test_a_token_that_others_can_read_is_found(tmp_path):
    path = tmp_path / "auth_token"
    here = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(path)}
    assert not token(True, here).ok
    path.write_text("0" * 64)
    path.chmod(0o600)
    assert token(True, here).ok
    assert not token(True, {**here, "RAY_AUTH_MODE": "disabled"}).ok
    path.chmod(0o644)
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.getuid() and str(folder).startswith(str(tmp_path.parents[1])):
            folder.chmod(0o755)
    others = all(folder.stat().st_mode & 0o011 for folder in path.parents)
    assert token(True, here).ok is not others
    tmp_path.chmod(0o700)
    # a folder that only its owner may enter protects it, too
    assert token(True, here).ok


@pytest.mark.usefixtures("ray_session")
def test_a_node_with_a_folder_of_its_own_is_no_shared_store(monkeypatch, tmp_path):
    # each process counts for itself in this file system
    findings = list(shared_store("memory://store"))
    assert [finding.ok for finding in findings] == [False]
    assert "the store is not one place for all" in findings[0].detail
    assert all(finding.ok for finding in shared_store(str(tmp_path)))


@pytest.fixture
def nothing_open() -> Iterator[None]:
    """fsspec keeps what it has opened, with the server that the environment named then."""
    from s3fs import S3FileSystem

    S3FileSystem.clear_instance_cache()
    yield
    S3FileSystem.clear_instance_cache()


@pytest.mark.usefixtures("ray_session", "nothing_open")
@pytest.mark.parametrize("limit", ["the client's", "ours"])
def test_a_store_that_accepts_and_never_answers_is_a_line_for_everybody(monkeypatch, limit):
    server = socket.create_server(("127.0.0.1", 0))
    accepted = []
    threading.Thread(target=lambda: accepted.extend(iter(lambda: server.accept()[0], None)), daemon=True).start()
    settings = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.getsockname()[1]}", "AWS_EC2_METADATA_DISABLED": "true"}
    keys = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in {**settings, **keys}.items():
        monkeypatch.setenv(name, value)
    if limit == "ours":
        monkeypatch.setattr(doctor, "STORE_SECONDS", 3.0)
    else:
        once = {"read_timeout": 0.5, "retries": {"total_max_attempts": 1}}
        monkeypatch.setattr(objects, "_settings", lambda uri: {"config_kwargs": once})
    # a node here has this process's environment
    monkeypatch.setattr(doctor, "on_every_node", lambda task: [("here", task())])
    findings = []
    uri = f"s3://bucket-{limit.replace(chr(39), '').replace(' ', '-')}/store"
    objects.file_system(uri)  # who imports the client within the limit may give up before there is a request
    asking = threading.Thread(target=lambda: findings.extend(doctor.shared_store(uri)), daemon=True)
    asking.start()
    asking.join(120)
    assert not asking.is_alive()
    deadline = time.monotonic() + 120
    while not accepted and time.monotonic() < deadline:  # who was left behind connects at last, and it was this server
        time.sleep(0.05)
    assert accepted
    assert [(finding.ok, finding.what, finding.node) for finding in findings] == [
        (False, "store", ""),
        (False, "store", "here"),
    ]
    for finding in findings:
        assert ("no answer in 3 s" in finding.detail) is (limit == "ours")
        assert "can be reached" in finding.remedy
        assert "\n" not in str(finding)


def test_the_address_is_looked_at_before_ray_is_asked():
    from tune.cluster import joined

    with pytest.raises(UserError, match="no Ray cluster answers"), joined("nowhere"):
        pass
