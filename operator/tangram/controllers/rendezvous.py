"""How the replicas of a job find each other: the environment that each framework expects, from plain values.

Kubernetes starts one process per replica. ``WORLD_SIZE`` and ``RANK`` describe these processes; a launcher that starts
several of its own per replica (torchrun, one per GPU) reads ``PET_*`` and sets both anew for them.
Sources: PyTorch docs "torchrun (Elastic Launch)"; TensorFlow docs "TF_CONFIG"; paddle.distributed.launch; MXNet docs
"Distributed Training"; MindSpore docs "Dynamic Cluster Startup"; Open MPI and MPICH manuals on host files.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

LEADING_ROLES = ("master", "chief", "launcher")
"""Roles that lead a job by their name; else the first role of the job does."""
SERVER_ROLES = ("ps", "pserver", "server", "scheduler")
"""Roles that serve the others and never end by themselves."""

PORTS: Mapping[str, int] = {
    "pytorch": 29500,
    "tensorflow": 2222,
    "paddle": 36543,
    "mxnet": 9091,
    "mindspore": 8118,
    "mpi": 22,
    "custom": 29500,
}
"""Port on which the leading replica of each framework listens."""

HOST_FILES = "/etc/tangram"
"""Folder of the host files of an MPI job."""


@dataclass(frozen=True, slots=True)
class Member:
    """One replica: its role, its number in the role and in the job, its name in DNS, the processes (GPUs) it runs."""

    role: str
    index: int
    rank: int
    host: str
    processes: int = 1


@dataclass(frozen=True, slots=True)
class Gang:
    """All replicas of a job in the order of their ranks."""

    framework: str
    job: str
    job_uid: str
    members: tuple[Member, ...]
    elastic: tuple[int, int] | None = None
    """Fewest and most replicas of all roles together, when their number varies."""
    attempt: int = 0

    @property
    def port(self) -> int:
        """Port on which the leader listens."""
        return PORTS[self.framework]

    @property
    def leader(self) -> Member:
        """The replica of rank 0."""
        return self.members[0]

    def of(self, *roles: str) -> tuple[Member, ...]:
        """Members of some roles."""
        return tuple(member for member in self.members if member.role in roles)


def ranked(roles: Iterable[str]) -> list[str]:
    """Roles in the order of ranks: the leading one first, the others as they were written."""
    written = list(roles)
    return sorted(written, key=lambda role: role not in LEADING_ROLES)


def environment(gang: Gang, member: Member) -> dict[str, str]:
    """Environment variables of one replica."""
    return {**_neutral(gang, member), **_FRAMEWORKS[gang.framework](gang, member)}


def host_files(gang: Gang) -> dict[str, str]:
    """Contents of the host files of an MPI job by file name; empty for other frameworks."""
    if gang.framework != "mpi":
        return {}
    hosts = _mpi_hosts(gang)
    return {
        "hostfile": "".join(f"{member.host} slots={member.processes}\n" for member in hosts),
        "hostfile.hydra": "".join(f"{member.host}:{member.processes}\n" for member in hosts),
    }


def _address(gang: Gang, member: Member) -> str:
    return f"{member.host}:{gang.port}"


def _addresses(gang: Gang, members: Iterable[Member]) -> str:
    return ",".join(_address(gang, member) for member in members)


def _neutral(gang: Gang, member: Member) -> dict[str, str]:
    return {
        "TANGRAM_JOB": gang.job,
        "TANGRAM_ROLE": member.role,
        "TANGRAM_INDEX": str(member.index),
        "TANGRAM_RANK": str(member.rank),
        "TANGRAM_WORLD_SIZE": str(len(gang.members)),
        "TANGRAM_PROCESSES": str(member.processes),
        "TANGRAM_LEADER": gang.leader.host,
        "TANGRAM_PORT": str(gang.port),
        "TANGRAM_RESTARTS": str(gang.attempt),
    }


def _pytorch(gang: Gang, member: Member) -> dict[str, str]:
    rank, leader, port = member.rank, gang.leader.host, str(gang.port)
    names = {
        "MASTER_ADDR": leader,
        "MASTER_PORT": port,
        "WORLD_SIZE": str(len(gang.members)),
        "RANK": str(rank),
        "NODE_RANK": str(rank),
        "PET_NPROC_PER_NODE": str(member.processes),
        "PET_RDZV_ID": gang.job_uid or gang.job,
    }
    if gang.elastic is None:
        return {
            **names,
            "PET_NNODES": str(len(gang.members)),
            "PET_NODE_RANK": str(rank),
            "PET_MASTER_ADDR": leader,
            "PET_MASTER_PORT": port,
        }
    fewest, most = gang.elastic
    return {
        **names,
        "PET_NNODES": f"{fewest}:{most}",
        "PET_RDZV_BACKEND": "c10d",
        "PET_RDZV_ENDPOINT": f"{leader}:{port}",
        # Said outright: c10d would compare host names, and its ways of doing so differ between versions.
        "PET_RDZV_CONF": f"is_host={int(rank == 0)}",
    }


def _tensorflow(gang: Gang, member: Member) -> dict[str, str]:
    cluster: dict[str, list[str]] = {}
    for other in gang.members:
        if other.role != "evaluator":  # it looks on from outside: TensorFlow wants it left out
            cluster.setdefault(other.role, []).append(_address(gang, other))
    config = {"cluster": cluster, "task": {"type": member.role, "index": member.index}, "environment": "cloud"}
    return {"TF_CONFIG": json.dumps(config, separators=(",", ":"))}


def _paddle(gang: Gang, member: Member) -> dict[str, str]:
    servers = gang.of(*SERVER_ROLES)
    trainers = tuple(other for other in gang.members if other not in servers)
    nodes = f"{gang.elastic[0]}:{gang.elastic[1]}" if gang.elastic is not None else str(len(gang.members))
    names = {
        "PADDLE_JOB_ID": gang.job,
        "PADDLE_MASTER": _address(gang, gang.leader),
        "PADDLE_NNODES": nodes,
        "PADDLE_RANK": str(member.rank),
        "PADDLE_NPROC_PER_NODE": str(member.processes),
        "PADDLE_CURRENT_ENDPOINT": _address(gang, member),
        "PADDLE_TRAINERS_NUM": str(len(trainers)),
        "PADDLE_TRAINER_ENDPOINTS": _addresses(gang, trainers),
        "TRAINING_ROLE": "PSERVER" if member in servers else "TRAINER",
    }
    if member in trainers:
        names["PADDLE_TRAINER_ID"] = str(trainers.index(member))
    if servers:
        names |= {
            "PADDLE_PSERVERS_IP_PORT_LIST": _addresses(gang, servers),
            "PADDLE_SERVER_NUM": str(len(servers)),
            "PADDLE_TRAINER_NUM": str(len(trainers)),
        }
    return names


def _mxnet(gang: Gang, member: Member) -> dict[str, str]:
    kinds = {"scheduler": "scheduler", "server": "server", "ps": "server", "pserver": "server"}
    servers = gang.of("server", "ps", "pserver")
    workers = tuple(other for other in gang.members if other.role not in kinds)
    root = (gang.of("scheduler") or gang.members)[0]
    names = {
        "DMLC_PS_ROOT_URI": root.host,
        "DMLC_PS_ROOT_PORT": str(gang.port),
        "DMLC_NUM_SERVER": str(len(servers)),
        "DMLC_NUM_WORKER": str(len(workers)),
        "DMLC_ROLE": kinds.get(member.role, "worker"),
        "DMLC_USE_KUBERNETES": "1",
    }
    if member in workers:
        names["DMLC_WORKER_ID"] = str(workers.index(member))
    elif member in servers:
        names["DMLC_SERVER_ID"] = str(servers.index(member))
    return names


def _mindspore(gang: Gang, member: Member) -> dict[str, str]:
    kinds = {"scheduler": "MS_SCHED", "server": "MS_PSERVER", "ps": "MS_PSERVER", "pserver": "MS_PSERVER"}
    servers = gang.of("server", "ps", "pserver")
    workers = tuple(other for other in gang.members if other.role not in kinds)
    root = (gang.of("scheduler") or gang.members)[0]
    peers = servers if member in servers else workers
    return {
        "MS_SCHED_HOST": root.host,
        "MS_SCHED_PORT": str(gang.port),
        "MS_WORKER_NUM": str(sum(other.processes for other in workers)),
        "MS_SERVER_NUM": str(len(servers)),
        "MS_ROLE": kinds.get(member.role, "MS_WORKER"),
        "MS_NODE_ID": str(peers.index(member)) if member in peers else "0",
    }


def _mpi_hosts(gang: Gang) -> tuple[Member, ...]:
    """Where ranks run: on all but the launcher, or on all when nobody only launches."""
    return tuple(member for member in gang.members if member.role != "launcher") or gang.members


def _mpi(gang: Gang, member: Member) -> dict[str, str]:
    hosts = _mpi_hosts(gang)
    names = {
        "TANGRAM_MPI_HOSTS": ",".join(f"{other.host}:{other.processes}" for other in hosts),
        "TANGRAM_MPI_PROCESSES": str(sum(other.processes for other in hosts)),
    }
    if member is not gang.leader:
        return names
    hydra = f"{HOST_FILES}/hostfile.hydra"
    return {
        **names,
        "OMPI_MCA_orte_default_hostfile": f"{HOST_FILES}/hostfile",
        "PRTE_MCA_prte_default_hostfile": f"{HOST_FILES}/hostfile",
        "OMPI_MCA_orte_keep_fqdn_hostnames": "true",
        "OMPI_MCA_plm_rsh_args": "-o ConnectionAttempts=10",
        "HYDRA_HOST_FILE": hydra,
        "I_MPI_HYDRA_HOST_FILE": hydra,
    }


_FRAMEWORKS: Mapping[str, Callable[[Gang, Member], dict[str, str]]] = {
    "pytorch": _pytorch,
    "tensorflow": _tensorflow,
    "paddle": _paddle,
    "mxnet": _mxnet,
    "mindspore": _mindspore,
    "mpi": _mpi,
    "custom": lambda _gang, _member: {},
}
