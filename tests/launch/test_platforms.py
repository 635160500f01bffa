"""What platforms start: jobs that are valid where they are given, with the numbers of their allocation."""

import json
import os
import subprocess
from pathlib import Path

import jsonschema
import pytest
import yaml

from largescale.config import load
from largescale.distributed import places
from largescale.settings import UserError
from largescale.training.settings.recipe import TrainConfig
from tests.conftest import ROOT

SRUN = {
    "SLURM_STEP_ID": "3",
    "SLURM_JOB_ID": "77",
    "SLURM_STEP_NUM_TASKS": "11",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2),3",
    "SLURM_STEP_NODELIST": "gpu[007-008,012]",
    "SLURM_PROCID": "9",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "2",
}


def test_tasks_of_srun_are_ranks() -> None:
    found = places(SRUN)
    assert (found["RANK"], found["WORLD_SIZE"], found["LOCAL_RANK"], found["LOCAL_WORLD_SIZE"]) == ("9", "11", "1", 3)
    assert (found["MASTER_ADDR"], found["MASTER_PORT"]) == ("gpu007", 27_703)
    assert places(SRUN | {"SLURM_STEP_NODELIST": "login", "SLURM_NODEID": "0"})["MASTER_ADDR"] == "login"
    assert places(SRUN | {"SLURM_STEP_NUM_TASKS": "1"})["WORLD_SIZE"] == 1
    assert places({})["MASTER_ADDR"] == "127.0.0.1"


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node[03-05,9]", "node03"),
        ("login,node[1-2]", "login"),
        ("gpu[1-4]-ib,gpu[7-8]-ib", "gpu1-ib"),
        ("rack[1-2]node[3-4]", "rack1node3"),
        ("a1.cluster,a2.cluster", "a1.cluster"),
    ],
)
def test_ranks_of_srun_meet_on_the_first_node(nodes: str, first: str) -> None:
    """Names as Slurm folds them: with several brackets, and with something behind them."""
    assert places(SRUN | {"SLURM_STEP_NODELIST": nodes})["MASTER_ADDR"] == first


@pytest.mark.parametrize("nodes", ["2", "1:4"])
def test_a_node_of_several_without_a_rank_does_not_train_by_itself(nodes: str) -> None:
    """As a pod of Kubeflow Trainer has it whose command is not torchrun."""
    pod = {"PET_NNODES": nodes, "PET_NPROC_PER_NODE": "1", "PET_NODE_RANK": "1", "PET_MASTER_ADDR": "first-0"}
    with pytest.raises(UserError, match="start the program by torchrun"):
        places(pod)
    assert places(pod | {"PET_NNODES": "1"})["RANK"] == 0
    assert places(pod | {"RANK": "1"})["LOCAL_RANK"] == 0


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"RANK": "5", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}, ("1", 4)),
        ({"RANK": "5", "LOCAL_WORLD_SIZE": "4"}, (1, 4)),
        ({"RANK": "5"}, (0, 1)),
        ({"RANK": "5", "SLURM_LOCALID": "3"}, ("3", 1)),
    ],
)
def test_a_rank_without_its_place_on_the_node_is_understood(given: dict[str, str], expected: tuple[str | int, int]) -> None:
    found = places(given)
    assert (found["LOCAL_RANK"], found["LOCAL_WORLD_SIZE"]) == expected
    assert "RANK" not in found


@pytest.mark.parametrize(("script", "program"), [("train", "launch/train.py"), ("mine", "launch/mine.py")])
def test_a_slurm_job_takes_its_numbers_from_the_allocation(script: str, program: str, tmp_path: Path) -> None:
    """With stand-ins for SLURM's own programs, which write down what they are asked."""
    for name, said in {"srun": 'echo "$@" > "$ASKED"', "scontrol": "echo n3; echo n4", "scancel": ""}.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{said}\n")
        (tmp_path / name).chmod(0o755)
    allocation = {"SLURM_JOB_ID": "50123", "SLURM_JOB_NODELIST": "n[3-4]", "SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "6"}
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "ASKED": str(tmp_path / "asked"), **allocation}
    subprocess.run(["bash", f"launch/slurm/{script}.sbatch", "first", "a=b"], cwd=ROOT, env=environment, check=True, timeout=30)
    asked = (tmp_path / "asked").read_text().split()
    assert asked[1] == ".venv/bin/torchrun"
    for option, value in {"nnodes": "2", "nproc-per-node": "6", "rdzv-endpoint": "n3:30123", "rdzv-id": "50123-0"}.items():
        assert asked[asked.index(f"--{option}") + 1] == value
    assert asked[-3:] == [program, "first", "a=b"]


@pytest.mark.slow
def test_the_job_of_kubernetes_is_one_of_kubeflow() -> None:
    from kubeflow_trainer_api.models.trainer_v1alpha1_train_job import TrainerV1alpha1TrainJob  # seconds

    job = yaml.safe_load((ROOT / "launch/kubernetes/train.yaml").read_text())
    read = TrainerV1alpha1TrainJob.from_dict(job)
    assert read is not None
    assert read.to_dict() == job  # nothing that Kubeflow would not know
    program, *arguments = job["spec"]["trainer"]["args"]
    assert (ROOT / program).exists()
    assert load(TrainConfig, arguments).checkpoint.mirror == "s3://BUCKET/runs/sfm120k"


@pytest.mark.slow
def test_the_task_of_skypilot_is_valid() -> None:
    task = yaml.safe_load((ROOT / "launch/skypilot/train.yaml").read_text())
    schema = json.loads((ROOT / "tests/launch/skypilot_task.json").read_text())
    jsonschema.validate(task, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(task | {"num_node": 2}, schema)
    assert (ROOT / task["envs"]["RECIPE"]).exists()
    subprocess.run(["bash", "-n", "-c", task["run"]], check=True)
