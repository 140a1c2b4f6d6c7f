"""Every metric of every process: name, type, labels, help and which process exports it. Collectors and documentation
read this table.

A metric of the agent has the name that NVIDIA's dcgm-exporter gives it exactly where it means the same, so that
dashboards and rules made for that exporter go on working; everything else is ``tangram_``, in base units.
"""

from dataclasses import dataclass
from typing import Final, Literal

Owner = Literal["scheduler", "controller", "node"]
"""A process, as the verb that starts it."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric family."""

    name: str
    type: Literal["counter", "gauge", "histogram", "untyped"]
    """dcgm-exporter's counters have no ``_total``; as untyped they keep their name."""
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    """Upper bounds of a histogram's buckets, without infinity."""


@dataclass(frozen=True, slots=True)
class Row:
    """A metric and the processes that export it."""

    metric: Metric
    owners: tuple[Owner, ...]


_QUEUE: Final = ("queue", "resource")
_UNITS: Final = "cpu in cores, memory in bytes, gpu and gpu/MODEL in GPUs"
_RECONCILES: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_CALLS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0)
DEVICE: Final = ("gpu", "UUID", "pci_bus_id", "device", "modelName", "Hostname", "namespace", "pod", "container")
"""Labels of a device, as dcgm-exporter has them; the last three are empty unless one container holds all of it."""
CONTAINER: Final = ("gpu", "UUID", "modelName", "Hostname", "namespace", "pod", "container")

LEADER: Final = Metric("tangram_leader", "gauge", "1 while this process holds the Lease.")

SCHEDULER: Final = (
    Metric("tangram_gpu_capacity", "gauge", "GPUs of the pool, whole devices.", ("model",)),
    Metric("tangram_gpu_allocated", "gauge", "GPUs given to pods, fractions counted as fractions.", ("model",)),
    Metric("tangram_nodes", "gauge", "Nodes known to the scheduler."),
    Metric("tangram_pending_pods", "gauge", "Pods that wait for a node."),
    Metric("tangram_queue_used", "gauge", f"What a queue uses, places held for its pods included; {_UNITS}.", _QUEUE),
    Metric("tangram_queue_guarantee", "gauge", f"What a queue is promised, where anything is; {_UNITS}.", _QUEUE),
    Metric("tangram_queue_limit", "gauge", f"What a queue cannot exceed, where it is limited; {_UNITS}.", _QUEUE),
    Metric(
        "tangram_queue_fair_share", "gauge", f"What a queue would have by guarantees and weights; {_UNITS}.", _QUEUE
    ),
    Metric("tangram_queue_pods", "gauge", "Pods of a queue and below it, pending or running.", ("queue", "state")),
    Metric(
        "tangram_policy_generation", "gauge", "The metadata.generation of the HybridPolicy that decides.", ("policy",),
    ),
    Metric(
        "tangram_policy_last_read_successful", "gauge",
        "1 while all of a HybridPolicy can be read as it is stored, 0 while the last version of it that could, or a "
        "part of it, counts.", ("policy",),
    ),
    Metric("tangram_scheduling_cycles_total", "counter", "Scheduling cycles that produced a plan."),
    Metric("tangram_schedule_attempts_total", "counter", "Decisions by result.", ("result",)),
    Metric("tangram_cycle_seconds", "gauge", "Seconds that the last decision took."),
    Metric("tangram_api_responses_total", "counter", "Answers of the API server.", ("method", "code")),
    Metric("tangram_watch_relists_total", "counter", "Complete reads of a watched collection.", ("collection",)),
    LEADER,
)  # fmt: skip

RECONCILES: Final = Metric(
    "tangram_reconciles_total", "counter", "Reconciles of an object by result.", ("kind", "result")
)
RECONCILE_SECONDS: Final = Metric(
    "tangram_reconcile_seconds",
    "histogram",
    "Seconds from the start of a reconcile to its last write.",
    ("kind",),
    _RECONCILES,
)
RECONCILE_QUEUE: Final = Metric("tangram_reconcile_queue", "gauge", "Names that wait to be reconciled.", ("kind",))

CONTROLLER: Final = (RECONCILES, RECONCILE_SECONDS, RECONCILE_QUEUE, LEADER)

GPUS: Final = (
    Metric("DCGM_FI_DEV_GPU_UTIL", "gauge", "Percent of the time in which a kernel ran.", DEVICE),
    Metric("DCGM_FI_DEV_MEM_COPY_UTIL", "gauge", "Percent of the time with reads or writes of memory.", DEVICE),
    Metric("DCGM_FI_DEV_FB_USED", "gauge", "Memory in use (MiB).", DEVICE),
    Metric("DCGM_FI_DEV_FB_FREE", "gauge", "Memory that is free (MiB).", DEVICE),
    Metric("DCGM_FI_DEV_POWER_USAGE", "gauge", "Power (W).", DEVICE),
    Metric("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", "untyped", "Energy since the driver started (mJ).", DEVICE),
    Metric("DCGM_FI_DEV_GPU_TEMP", "gauge", "Temperature (C).", DEVICE),
    Metric("DCGM_FI_DEV_SM_CLOCK", "gauge", "Clock of the multiprocessors (MHz).", DEVICE),
    Metric("DCGM_FI_DEV_MEM_CLOCK", "gauge", "Clock of the memory (MHz).", DEVICE),
    Metric("DCGM_FI_DEV_XID_ERRORS", "gauge", "The last XID since the agent started; 0: none.", DEVICE),
    Metric("DCGM_FI_DEV_ECC_SBE_VOL_TOTAL", "untyped", "Corrected ECC errors since the driver started.", DEVICE),
    Metric("DCGM_FI_DEV_ECC_DBE_VOL_TOTAL", "untyped", "Uncorrected ECC errors since the driver started.", DEVICE),
    Metric("tangram_gpu_remapped_rows", "gauge", "Rows of memory that were replaced by spare ones.", DEVICE),
    Metric("tangram_container_gpu_share_ratio", "gauge", "Part of the GPU that it was given.", CONTAINER),
    Metric(
        "tangram_container_gpu_mps_thread_ratio", "gauge",
        "Part of the multiprocessors to which MPS holds the container; no figure where nothing holds it.", CONTAINER,
    ),
    Metric(
        "tangram_container_gpu_memory_limit_bytes", "gauge",
        "Memory that the container was given; in the mode time-slice nothing holds it to that.", CONTAINER,
    ),
    Metric("tangram_container_gpu_memory_used_bytes", "gauge", "Memory that the container uses.", CONTAINER),
    Metric(
        "tangram_container_gpu_memory_over_limit", "gauge",
        "1 while the container uses more than it was given.", CONTAINER,
    ),
    Metric("tangram_container_gpu_sm_ratio", "gauge", "Part of the multiprocessor time it uses.", CONTAINER),
    Metric(
        "tangram_container_gpu_power_watts", "gauge",
        "The device's power by its part of the multiprocessor time: an estimate on a shared GPU.", CONTAINER,
    ),
    Metric(
        "tangram_container_gpu_energy_joules_total", "counter",
        "Energy since the agent first saw the container: an estimate on a shared GPU.", CONTAINER,
    ),
    Metric("tangram_gpu_healthy", "gauge", "1 while the GPU may get work, 0 while it may not.", ("UUID", "health")),
    Metric("tangram_gpu_at_risk", "gauge", "1 while a trend says that the GPU is likely to fail soon.", ("UUID",)),
    Metric(
        "tangram_gpu_isolation_info", "gauge",
        "How tenants of the GPU are kept apart now: 1 for the mode that holds.", ("UUID", "mode"),
    ),
    Metric(
        "tangram_gpu_mps_up", "gauge", "1 while the MPS daemon of the GPU answers; 0: no fractions are given out.",
        ("UUID",),
    ),
    Metric(
        "tangram_gpu_mps_ceilings_put_back_total", "counter",
        "Times that somebody else than the agent had changed what MPS holds the clients of the GPU to.", ("UUID",),
    ),
    Metric(
        "tangram_gpu_stray_processes", "gauge", "Processes on the GPU that belong to no container which holds it.",
        ("UUID",),
    ),
    Metric(
        "tangram_gpu_stray_memory_bytes", "gauge",
        "Memory of such processes. MPS servers and the agent count here.", ("UUID",),
    ),
    Metric("tangram_node_reading_age_seconds", "gauge", "Seconds since the GPUs were last read."),
    Metric(
        "tangram_node_process_metrics", "gauge",
        "1 while use is measured per process; 0, with the reason, while it is not.", ("reason",),
    ),
    Metric(
        "tangram_node_containers_left_out", "gauge", "Containers beyond the most that are exported from one node.",
    ),
)  # fmt: skip
"""What the agent reads of its GPUs."""

PLUGIN: Final = (
    Metric("tangram_node_allocations_total", "counter", "Containers that were given GPUs.", ("resource",)),
    Metric("tangram_node_refusals_total", "counter", "Containers that were refused GPUs.", ("resource", "reason")),
    Metric(
        "tangram_node_guesses_total", "counter",
        "Allocations for which several pods with different records were possible.", ("resource",),
    ),
    Metric("tangram_node_mismatches", "gauge", "Containers that hold other GPUs than their pod's record names."),
    Metric("tangram_node_mismatches_found_total", "counter", "Times that such a container was found."),
    Metric("tangram_node_registrations_total", "counter", "Registrations with the kubelet.", ("resource",)),
    Metric("tangram_node_listing_failures_total", "counter", "Times the kubelet did not list the pods' devices."),
    Metric(
        "tangram_node_call_seconds", "histogram", "Duration of the kubelet's calls.", ("resource", "call"), _CALLS,
    ),
    Metric("tangram_node_part_healthy", "gauge", "1 while a part of the agent works, 0 while it fails.", ("part",)),
)  # fmt: skip
"""What the agent counts of the device plugin and of itself."""


def _rows() -> tuple[Row, ...]:
    processes: tuple[tuple[Owner, tuple[Metric, ...]], ...] = (
        ("scheduler", SCHEDULER), ("controller", CONTROLLER), ("node", (*GPUS, *PLUGIN)),
    )  # fmt: skip
    owners: dict[Metric, tuple[Owner, ...]] = {}
    for owner, exported in processes:
        for metric in exported:
            owners[metric] = (*owners.get(metric, ()), owner)
    return tuple(Row(metric, who) for metric, who in owners.items())


TABLE: Final = _rows()
"""All metrics, each once."""
