"""Builds as cluster jobs: `ray job submit` on a real cluster, and the committed KubeRay and Slurm files."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from judge import fixed_files
from local_cluster import LocalCluster, environment, free_ports
from pipelines.cli import Exit, app

ROOT = Path(__file__).parents[2]
CLUSTER_DOCS = ROOT / "docs" / "cluster"


# --- ray job submit ---------------------------------------------------------------------------------------------------


@pytest.fixture
def cluster() -> Iterator[LocalCluster]:
    """A one-node cluster that takes jobs, with this environment's programs and without this checkout's code."""
    env = environment()
    del env["PYTHONPATH"]
    env["PATH"] = f"{Path(sys.executable).parent}:{env['PATH']}"
    with LocalCluster(size=0, cpus=0, head_cpus=4, dashboard_port=free_ports(1)[0], env=env) as started:
        yield started


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_submitted_job_gives_the_shards_of_a_local_build(cluster: LocalCluster, short, tmp_path: Path) -> None:
    def ray_job(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "ray.scripts.scripts", "job", words[0], "--address", cluster.dashboard]
        return subprocess.run(
            [*command, *words[1:]], cwd=ROOT, env=dict(cluster.env), capture_output=True, text=True, timeout=600
        )

    build = ["python", "-m", "pipelines.build", "--input", str(short.videos), "--output", str(tmp_path / "out")]
    # Quarantined rows are no failure of the job, as in the manifest below.
    entrypoint = f"{shlex.join([*build, *short.settings])} || test $? -eq {Exit.QUARANTINED:d}"
    told = ray_job("submit", "--working-dir", ".", "--submission-id", "build", "--", "bash", "-c", entrypoint)
    assert told.returncode == 0, told.stdout[-4000:] + told.stderr[-4000:]
    assert "7 videos → 4 clips → 4 pairs" in told.stdout
    assert "succeeded" in ray_job("status", "build").stdout
    assert fixed_files(tmp_path / "out") == fixed_files(short.out)

    unpacked = [{file.name for file in path.iterdir()} for path in cluster.working_dirs() if path.is_dir()]
    assert unpacked
    for names in unpacked:
        assert {"dataengine", "pipelines", "conf"} <= names
        assert not names & {".git", ".venv", ".uv", "demo", "runs"}


# --- KubeRay ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def ray_job() -> dict:
    job = yaml.safe_load((CLUSTER_DOCS / "rayjob.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    return job["spec"]


def test_the_manifests_command_is_one_that_build_takes(ray_job: dict, tmp_path: Path) -> None:
    words = shlex.split(ray_job["entrypoint"])
    assert words[:3] == ["python", "-m", "pipelines.build"]
    assert words[-5:] == ["||", "test", "$?", "-eq", str(int(Exit.QUARANTINED))]
    arguments = ["build", *words[3:-5]]
    for option in ("--input", "--output"):
        value = arguments.index(option) + 1
        assert arguments[value].startswith("s3://")
        arguments[value] = str(tmp_path / "nowhere")
    result = CliRunner().invoke(app, arguments)
    # All was read, and the build came to look for its videos.
    assert "no such file or folder" in " ".join(result.output.split())


def test_the_manifests_pods_fit_the_build(ray_job: dict) -> None:
    import ray

    spec = ray_job["rayClusterSpec"]
    assert spec["rayVersion"] == ray.__version__
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    assert [group.get("groupName", "head") for group in groups] == ["head", "cpu", "gpu"]
    for group in groups:
        [container] = group["template"]["spec"]["containers"]
        assert container["image"].rpartition(":")[2] not in ("", "latest", container["image"])
        assert container["envFrom"] == [{"secretRef": {"name": "dataengine-s3"}}]
        assert container["resources"]["limits"] == container["resources"]["requests"]
    assert "nvidia.com/gpu" in groups[2]["template"]["spec"]["containers"][0]["resources"]["limits"]


# --- Slurm: the script itself, with programs in place of Slurm's that note their arguments ---------------------------

STUBS = {
    "scontrol": """
echo "scontrol $*" >> "$CALLS"
if [ "$1" = show ]; then printf 'node1\\nnode2\\nnode3\\n'; fi
""",
    "srun": """
echo "srun $*" >> "$CALLS"
case "$*" in
    *hostname*) echo "10.0.0.1 10.0.0.2" ;;
    *) trap 'exit 0' TERM; while true; do sleep 0.1; done ;;
esac
""",
    "ray": """
echo "ray $* as $RAY_AUTH_MODE ${#RAY_AUTH_TOKEN}" >> "$CALLS"
""",
    "python": """
if [ "$1" = -c ]; then echo 3; exit; fi
echo "python $*" >> "$CALLS"
case "$*" in
    *stop*) trap 'echo stopped >> "$CALLS"; exit 130' TERM; while true; do sleep 0.1; done ;;
esac
exit "$CODE"
""",
}


@pytest.fixture
def slurm(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """`slurm(code, *arguments)`: the sbatch script under stand-ins of Slurm, whose build ends with `code`."""
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name, text in STUBS.items():
        (programs / name).write_text(f"#!/bin/bash\n{text}")
        (programs / name).chmod(0o755)

    def start(code: int, *arguments: str) -> subprocess.Popen[str]:
        slurm = {"SLURM_JOB_ID": "41", "SLURM_JOB_NODELIST": "node[1-3]", "SLURM_CPUS_PER_TASK": "8"}
        return subprocess.Popen(
            ["bash", str(CLUSTER_DOCS / "slurm.sbatch"), *arguments],
            cwd=tmp_path,
            env=os.environ | slurm | {"CALLS": str(tmp_path / "calls"), "CODE": str(code)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return start


def calls(folder: Path) -> list[str]:
    path = folder / "calls"
    return path.read_text().splitlines() if path.exists() else []


@pytest.mark.parametrize(("code", "wanted"), [(0, 0), (3, 0), (1, 1), (2, 2)])
def test_the_slurm_job_ends_as_its_build_does(slurm, tmp_path: Path, code: int, wanted: int) -> None:
    job = slurm(code, "--input", "a b", "--output", "out", "seed=1")
    said, _ = job.communicate(timeout=60)
    assert job.returncode == wanted, said
    made = calls(tmp_path)
    address = "10.0.0.1:20041"
    assert f"python -m pipelines.build --address {address} --input a b --output out seed=1" in made
    heads = [call for call in made if "ray start --head" in call]
    assert len(heads) == 1
    assert "--nodelist=node1 " in heads[0]
    assert "--num-cpus=6 " in heads[0]
    workers = [call for call in made if f"ray start --block --address={address}" in call]
    assert [call.split("--nodelist=")[1].split()[0] for call in sorted(workers)] == ["node2", "node3"]
    assert any(call.endswith("as token 64") for call in made), "a fresh token of 32 bytes"
    assert not any("requeue" in call for call in made)


def test_a_slurm_job_that_is_stopped_stops_its_build_and_queues_again(slurm, tmp_path: Path) -> None:
    job = slurm(0, "--input", "stop", "--output", "out")
    deadline = time.monotonic() + 60
    while not any(call.startswith("python -m") for call in calls(tmp_path)):
        assert time.monotonic() < deadline, calls(tmp_path)
        time.sleep(0.05)
    job.send_signal(signal.SIGTERM)
    said, _ = job.communicate(timeout=60)
    assert job.returncode == 0, said
    assert calls(tmp_path)[-2:] == ["stopped", "scontrol requeue 41"]
