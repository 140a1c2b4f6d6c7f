"""What the replicas of each framework are told about each other."""

import json
from typing import Any

import pytest
from tests.controllers.builders import job, role

from tangram.controllers.manifests import gang_of
from tangram.controllers.rendezvous import environment, host_files

HOST = "train-gang.team.svc"


def told(framework: str, roles: list[dict[str, Any]], who: str, attempt: int = 0, **spec: Any) -> dict[str, str]:
    gang = gang_of(job(*roles, framework=framework, **spec), attempt)
    return environment(gang, next(m for m in gang.members if f"{m.role}-{m.index}" == who))


def test_pytorch_replicas_of_eight_gpus_are_torchrun_nodes_of_eight_processes() -> None:
    variables = told("pytorch", [role("worker", 4, gpus={"count": 8})], "worker-2")
    assert variables["PET_NNODES"] == "4"
    assert variables["PET_NPROC_PER_NODE"] == "8"
    assert variables["PET_NODE_RANK"] == variables["NODE_RANK"] == "2"
    assert variables["MASTER_ADDR"] == variables["PET_MASTER_ADDR"] == f"train-worker-0.{HOST}"
    assert variables["MASTER_PORT"] == variables["PET_MASTER_PORT"] == "29500"


def test_world_size_and_rank_count_the_processes_that_kubernetes_starts() -> None:
    """Without torchrun one process runs per replica; a WORLD_SIZE of 32 would let four of them wait for ever."""
    ranks = [told("pytorch", [role("worker", 4, gpus={"count": 8})], f"worker-{n}") for n in range(4)]
    assert [variables["RANK"] for variables in ranks] == ["0", "1", "2", "3"]
    assert {variables["WORLD_SIZE"] for variables in ranks} == {"4"}


def test_the_leading_role_has_rank_zero_wherever_it_is_written() -> None:
    roles = [role("worker", 2), role("master")]
    assert told("pytorch", roles, "master-0")["RANK"] == "0"
    assert told("pytorch", roles, "worker-1")["RANK"] == "2"
    assert told("pytorch", roles, "worker-1")["MASTER_ADDR"] == f"train-master-0.{HOST}"


def test_an_elastic_pytorch_job_meets_by_c10d_and_only_the_first_replica_is_host() -> None:
    elastic = {"role": "worker", "replicas": 3, "minReplicas": 2, "maxReplicas": 16}
    first = told("pytorch", [role("worker")], "worker-0", elastic=elastic)
    third = told("pytorch", [role("worker")], "worker-2", elastic=elastic)
    assert first["PET_NNODES"] == "2:16"
    assert first["PET_RDZV_BACKEND"] == "c10d"
    assert first["PET_RDZV_ENDPOINT"] == third["PET_RDZV_ENDPOINT"] == f"train-worker-0.{HOST}:29500"
    assert (first["PET_RDZV_CONF"], third["PET_RDZV_CONF"]) == ("is_host=1", "is_host=0")
    assert "PET_NODE_RANK" not in first, "torchrun gives ranks anew when replicas come and go"


def test_tensorflow_gets_the_cluster_and_its_own_task() -> None:
    roles = [role("chief"), role("worker", 2), role("ps"), role("evaluator")]
    config = json.loads(told("tensorflow", roles, "worker-1")["TF_CONFIG"])
    assert config["task"] == {"type": "worker", "index": 1}
    assert config["cluster"] == {
        "chief": [f"train-chief-0.{HOST}:2222"],
        "worker": [f"train-worker-0.{HOST}:2222", f"train-worker-1.{HOST}:2222"],
        "ps": [f"train-ps-0.{HOST}:2222"],
    }
    assert json.loads(told("tensorflow", roles, "evaluator-0")["TF_CONFIG"])["task"]["type"] == "evaluator"


def test_paddle_knows_trainers_and_parameter_servers() -> None:
    roles = [role("worker", 2, gpus={"count": 2}), role("ps")]
    worker, server = told("paddle", roles, "worker-1"), told("paddle", roles, "ps-0")
    assert worker["TRAINING_ROLE"] == "TRAINER"
    assert worker["PADDLE_TRAINER_ID"] == "1"
    assert worker["PADDLE_TRAINERS_NUM"] == "2"
    assert worker["PADDLE_NPROC_PER_NODE"] == "2"
    assert worker["PADDLE_PSERVERS_IP_PORT_LIST"] == server["PADDLE_CURRENT_ENDPOINT"]
    assert server["TRAINING_ROLE"] == "PSERVER"
    assert "PADDLE_TRAINER_ID" not in server


def test_mxnet_meets_at_its_scheduler() -> None:
    roles = [role("worker", 2), role("server", 2), role("scheduler")]
    variables = told("mxnet", roles, "server-1")
    assert variables["DMLC_ROLE"] == "server"
    assert variables["DMLC_PS_ROOT_URI"] == f"train-scheduler-0.{HOST}"
    assert (variables["DMLC_NUM_WORKER"], variables["DMLC_NUM_SERVER"], variables["DMLC_SERVER_ID"]) == ("2", "2", "1")


def test_mindspore_meets_at_its_scheduler_and_counts_processes() -> None:
    roles = [role("scheduler"), role("worker", 2, gpus={"count": 8})]
    variables = told("mindspore", roles, "worker-0")
    assert variables["MS_SCHED_HOST"] == f"train-scheduler-0.{HOST}"
    assert (variables["MS_ROLE"], variables["MS_WORKER_NUM"]) == ("MS_WORKER", "16")
    assert told("mindspore", roles, "scheduler-0")["MS_ROLE"] == "MS_SCHED"


def test_the_mpi_launcher_finds_its_workers_in_host_files() -> None:
    roles = [role("launcher"), role("worker", 2, gpus={"count": 4})]
    launcher = told("mpi", roles, "launcher-0")
    files = host_files(gang_of(job(*roles, framework="mpi"), 0))
    assert files["hostfile"] == f"train-worker-0.{HOST} slots=4\ntrain-worker-1.{HOST} slots=4\n"
    assert files["hostfile.hydra"] == f"train-worker-0.{HOST}:4\ntrain-worker-1.{HOST}:4\n"
    assert launcher["OMPI_MCA_orte_default_hostfile"] == "/etc/tangram/hostfile"
    assert launcher["TANGRAM_MPI_PROCESSES"] == "8"
    assert "OMPI_MCA_orte_default_hostfile" not in told("mpi", roles, "worker-0")


def test_every_framework_gets_the_neutral_variables() -> None:
    variables = told("custom", [role("main", 2, gpus={"share": 30})], "main-1", attempt=3)
    assert variables == {
        "TANGRAM_JOB": "train",
        "TANGRAM_ROLE": "main",
        "TANGRAM_INDEX": "1",
        "TANGRAM_RANK": "1",
        "TANGRAM_WORLD_SIZE": "2",
        "TANGRAM_PROCESSES": "1",
        "TANGRAM_LEADER": f"train-main-0.{HOST}",
        "TANGRAM_PORT": "29500",
        "TANGRAM_RESTARTS": "3",
    }


@pytest.mark.parametrize("framework", ["pytorch", "tensorflow", "paddle", "mxnet", "mindspore", "mpi", "custom"])
def test_each_replica_is_told_something_else(framework: str) -> None:
    roles = [role("worker", 3), role("ps", 2)]
    gang = gang_of(job(*roles, framework=framework), 0)
    assert len({json.dumps(environment(gang, member)) for member in gang.members}) == 5
