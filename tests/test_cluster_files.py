"""The shipped cluster files: Ray's own schema, the fields that KubeRay knows, a shell and a made-up Slurm."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

FOLDER = Path(__file__).parents[1] / "configs" / "cluster"
LAUNCHED = ["aws", "gcp", "onpremise"]
PINNED = dict(
    line.split("==") for line in (FOLDER.parents[1] / "constraints.txt").read_text().splitlines() if "==" in line
)


@pytest.fixture(params=LAUNCHED)
def launched(request):
    return yaml.safe_load((FOLDER / f"{request.param}.yaml").read_text())


def test_ray_up_takes_it(launched):
    validate_config(prepare_config(launched))


def test_it_shuts_itself_down_and_holds_no_token(launched):
    assert 0 < launched["idle_timeout_minutes"] <= 15
    for kind in launched.get("available_node_types", {}).values():
        assert kind.get("min_workers", 0) == 0
    starts = [*launched["head_start_ray_commands"], *launched["worker_start_ray_commands"]]
    for line in starts:
        assert "ray stop" in line or "RAY_AUTH_MODE=token" in line
    assert any("--dashboard-host=127.0.0.1" in line for line in starts)
    # the token is a file of the user, which is copied
    assert launched["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"


def test_every_file_says_how_it_is_used_and_torn_down():
    found = sorted(path.name for path in FOLDER.iterdir())
    assert found == ["Dockerfile", "aws.yaml", "gcp.yaml", "kuberay.yaml", "onpremise.yaml", "slurm.sh"]
    for name in ("aws", "gcp", "onpremise"):
        text = (FOLDER / f"{name}.yaml").read_text()
        assert f"ray down configs/cluster/{name}.yaml" in text
        assert "ups search burgers1d --address auto" in text


# of ray.io/v1 in KubeRay 1.6: what of it is used here
KNOWN = {
    "spec": "entrypoint entrypointNumCpus shutdownAfterJobFinishes ttlSecondsAfterFinished activeDeadlineSeconds "
    "rayClusterSpec submissionMode",
    "spec.rayClusterSpec": "rayVersion authOptions enableInTreeAutoscaling autoscalerOptions headGroupSpec "
    "workerGroupSpecs",
    "spec.rayClusterSpec.authOptions": "mode secretName",
    "spec.rayClusterSpec.autoscalerOptions": "idleTimeoutSeconds upscalingMode resources",
    "spec.rayClusterSpec.headGroupSpec": "rayStartParams template",
    "spec.rayClusterSpec.workerGroupSpecs": "groupName replicas minReplicas maxReplicas rayStartParams template",
}


def test_kuberay_knows_every_field():
    job = yaml.safe_load((FOLDER / "kuberay.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    for path, known in KNOWN.items():
        below = job
        for name in path.split("."):
            below = below[name]
        for each in below if isinstance(below, list) else [below]:
            assert set(each) <= set(known.split()), path
    spec = job["spec"]
    cluster = spec["rayClusterSpec"]
    assert spec["shutdownAfterJobFinishes"]
    assert spec["activeDeadlineSeconds"] > 0
    assert cluster["authOptions"]["mode"] == "token"
    assert cluster["rayVersion"] == PINNED["ray"]
    assert f"rayproject/ray:{PINNED['ray']}-py311" in (FOLDER / "Dockerfile").read_text()
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        # KubeRay hands these on to `ray start`: text, not numbers
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        (container,) = group["template"]["spec"]["containers"]
        assert container["resources"]["limits"] == container["resources"]["requests"]
        # secrets by name alone
        assert "env" not in container
        assert list(container["envFrom"][0]) == ["secretRef"]


SBATCH = {
    "job-name": r"\w+",
    "nodes": r"\d+",
    "ntasks-per-node": "1",
    "cpus-per-task": r"\d+",
    "gpus-per-node": r"\d+",
    "exclusive": "",
    "time": r"\d+:\d\d:\d\d",
    "signal": r"B:TERM@\d+",
    "requeue": "",
    "open-mode": "append",
    "output": r"ups-%j\.log",
}


def test_slurm_reads_every_line_that_is_meant_for_it():
    lines = (FOLDER / "slurm.sh").read_text().splitlines()
    assert lines[0] == "#!/bin/bash"
    first = next(number for number, line in enumerate(lines) if line and not line.startswith("#"))
    # what stands below the first command is not read by sbatch
    assert not any(line.startswith("#SBATCH") for line in lines[first:])
    options = [line.removeprefix("#SBATCH --").partition("=") for line in lines if line.startswith("#SBATCH")]
    assert {name for name, _, _ in options} == set(SBATCH)
    for name, _, value in options:
        assert re.fullmatch(SBATCH[name], value), name


RECORD = """#!/bin/bash
echo "$(basename "$0") $* token=${#RAY_AUTH_TOKEN} mode=$RAY_AUTH_MODE" >> "$CALLS"
case "$(basename "$0") $*" in
  "scontrol show hostnames"*) printf 'n1\\nn2\\nn3\\n' ;;
  *"hostname --ip-address") echo 10.0.0.1 ;;
  *"len(ray.nodes())"*) until [ "$(grep -c "ray start" "$CALLS")" = 3 ]; do sleep 0.05; done; echo 3 ;;
  *"ray start"*) exec sleep 600 ;;
  *"ups search"*) exit ${SEARCH_EXIT:-0} ;;
esac
"""


@pytest.mark.parametrize(("begun", "code"), [(False, 0), (True, 1)])
def test_the_slurm_script_starts_a_cluster_searches_and_ends_with_it(tmp_path, begun, code):
    """With `srun` and `scontrol` that only write down what they were asked."""
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name in ("srun", "scontrol"):
        (programs / name).write_text(RECORD)
        (programs / name).chmod(0o755)
    (programs / "activate").write_text(f"export PATH={programs}:$PATH\n")
    if begun:
        (tmp_path / "runs" / "demo").mkdir(parents=True)
        (tmp_path / "runs" / "demo" / "study.yaml").touch()
    environment = {
        "PATH": os.environ["PATH"],
        "USER": "someone",
        "CALLS": str(tmp_path / "calls"),
        "SEARCH_EXIT": str(code),
        "SLURM_JOB_ID": "20123",
        "SLURM_JOB_NODELIST": "n[1-3]",
        "SLURM_CPUS_PER_TASK": "16",
    }
    script = ["bash", str(FOLDER / "slurm.sh"), "demo", "--store", "s3://bucket/store"]
    found = subprocess.run(script, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert found.returncode == code, found.stderr
    calls = (tmp_path / "calls").read_text().splitlines()
    starts = [line for line in calls if "ray start" in line]
    assert sum("--head" in line for line in starts) == 1
    assert sorted(re.findall(r"--nodelist=(\S+)", "\n".join(starts))) == ["n1", "n2", "n3"]
    assert all(line.endswith("token=64 mode=token") for line in starts)
    assert sum("--address=10.0.0.1:20123" in line for line in starts) == 2
    (search,) = [line for line in calls if "ups search" in line]
    wanted = "ups search demo --store s3://bucket/store --address 10.0.0.1:20123 --out runs/demo --quiet"
    assert wanted + (" --resume" if begun else "") + " token" in search
    assert any("ups doctor --address 10.0.0.1:20123" in line for line in calls)
