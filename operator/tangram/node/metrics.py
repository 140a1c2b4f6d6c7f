"""The metrics of the agent, as a table that the exporter renders and the documentation prints.

A metric has the name that NVIDIA's dcgm-exporter gives it exactly where it means the same, so that dashboards and rules
made for that exporter go on working; everything else is ``tangram_``, in base units.
"""

from dataclasses import dataclass
from typing import Final, Literal

DEVICE: Final = ("gpu", "UUID", "pci_bus_id", "device", "modelName", "Hostname", "namespace", "pod", "container")
"""Labels of a device, as dcgm-exporter has them; the last three are empty unless one container holds all of it."""
CONTAINER: Final = ("gpu", "UUID", "modelName", "Hostname", "namespace", "pod", "container")


@dataclass(frozen=True, slots=True)
class NodeMetric:
    """One metric family of the agent."""

    name: str
    type: Literal["counter", "gauge", "histogram", "untyped"]
    """dcgm-exporter's counters have no ``_total``; as untyped they keep their name."""
    help: str
    labels: tuple[str, ...] = ()


DEVICE_METRICS: Final = (
    NodeMetric("DCGM_FI_DEV_GPU_UTIL", "gauge", "Percent of the time in which a kernel ran.", DEVICE),
    NodeMetric("DCGM_FI_DEV_MEM_COPY_UTIL", "gauge", "Percent of the time with reads or writes of memory.", DEVICE),
    NodeMetric("DCGM_FI_DEV_FB_USED", "gauge", "Memory in use (MiB).", DEVICE),
    NodeMetric("DCGM_FI_DEV_FB_FREE", "gauge", "Memory that is free (MiB).", DEVICE),
    NodeMetric("DCGM_FI_DEV_POWER_USAGE", "gauge", "Power (W).", DEVICE),
    NodeMetric("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", "untyped", "Energy since the driver started (mJ).", DEVICE),
    NodeMetric("DCGM_FI_DEV_GPU_TEMP", "gauge", "Temperature (C).", DEVICE),
    NodeMetric("DCGM_FI_DEV_SM_CLOCK", "gauge", "Clock of the multiprocessors (MHz).", DEVICE),
    NodeMetric("DCGM_FI_DEV_MEM_CLOCK", "gauge", "Clock of the memory (MHz).", DEVICE),
    NodeMetric("DCGM_FI_DEV_XID_ERRORS", "gauge", "The last XID since the agent started; 0: none.", DEVICE),
    NodeMetric("DCGM_FI_DEV_ECC_SBE_VOL_TOTAL", "untyped", "Corrected ECC errors since the driver started.", DEVICE),
    NodeMetric("DCGM_FI_DEV_ECC_DBE_VOL_TOTAL", "untyped", "Uncorrected ECC errors since the driver started.", DEVICE),
    NodeMetric("tangram_gpu_remapped_rows", "gauge", "Rows of memory that were replaced by spare ones.", DEVICE),
)  # fmt: skip

CONTAINER_METRICS: Final = (
    NodeMetric("tangram_container_gpu_share_ratio", "gauge", "Part of the GPU that it was given.", CONTAINER),
    NodeMetric(
        "tangram_container_gpu_mps_thread_ratio", "gauge",
        "Part of the multiprocessors to which MPS holds the container; no figure where nothing holds it.", CONTAINER,
    ),
    NodeMetric(
        "tangram_container_gpu_memory_limit_bytes", "gauge",
        "Memory that the container was given; in the mode time-slice nothing holds it to that.", CONTAINER,
    ),
    NodeMetric("tangram_container_gpu_memory_used_bytes", "gauge", "Memory that the container uses.", CONTAINER),
    NodeMetric(
        "tangram_container_gpu_memory_over_limit", "gauge",
        "1 while the container uses more than it was given.", CONTAINER,
    ),
    NodeMetric("tangram_container_gpu_sm_ratio", "gauge", "Part of the multiprocessor time it uses.", CONTAINER),
    NodeMetric(
        "tangram_container_gpu_power_watts", "gauge",
        "The device's power by its part of the multiprocessor time: an estimate on a shared GPU.", CONTAINER,
    ),
    NodeMetric(
        "tangram_container_gpu_energy_joules_total", "counter",
        "Energy since the agent first saw the container: an estimate on a shared GPU.", CONTAINER,
    ),
)  # fmt: skip

NODE_METRICS: Final = (
    NodeMetric("tangram_gpu_healthy", "gauge", "1 while the GPU may get work, 0 while it may not.", ("UUID", "health")),
    NodeMetric("tangram_gpu_at_risk", "gauge", "1 while a trend says that the GPU is likely to fail soon.", ("UUID",)),
    NodeMetric(
        "tangram_gpu_isolation_info", "gauge",
        "How tenants of the GPU are kept apart now: 1 for the mode that holds.", ("UUID", "mode"),
    ),
    NodeMetric(
        "tangram_gpu_mps_up", "gauge", "1 while the MPS daemon of the GPU answers; 0: no fractions are given out.",
        ("UUID",),
    ),
    NodeMetric(
        "tangram_gpu_stray_processes", "gauge", "Processes on the GPU that belong to no container which holds it.",
        ("UUID",),
    ),
    NodeMetric(
        "tangram_gpu_stray_memory_bytes", "gauge",
        "Memory of such processes. MPS servers and the agent count here.", ("UUID",),
    ),
    NodeMetric("tangram_node_reading_age_seconds", "gauge", "Seconds since the GPUs were last read."),
    NodeMetric(
        "tangram_node_process_metrics", "gauge",
        "1 while use is measured per process; 0, with the reason, while it is not.", ("reason",),
    ),
    NodeMetric(
        "tangram_node_containers_left_out", "gauge", "Containers beyond the most that are exported from one node.",
    ),
)  # fmt: skip

NODE_TABLE: Final = (*DEVICE_METRICS, *CONTAINER_METRICS, *NODE_METRICS)

PLUGIN_TABLE: Final = (
    NodeMetric("tangram_node_allocations_total", "counter", "Containers that were given GPUs.", ("resource",)),
    NodeMetric("tangram_node_refusals_total", "counter", "Containers that were refused GPUs.", ("resource", "reason")),
    NodeMetric(
        "tangram_node_guesses_total", "counter",
        "Allocations for which several pods with different records were possible.", ("resource",),
    ),
    NodeMetric("tangram_node_mismatches", "gauge", "Containers that hold other GPUs than their pod's record names."),
    NodeMetric("tangram_node_mismatches_found_total", "counter", "Times that such a container was found."),
    NodeMetric("tangram_node_registrations_total", "counter", "Registrations with the kubelet.", ("resource",)),
    NodeMetric("tangram_node_listing_failures_total", "counter", "Times the kubelet did not list the pods' devices."),
    NodeMetric("tangram_node_call_seconds", "histogram", "Duration of the kubelet's calls.", ("resource", "call")),
    NodeMetric("tangram_node_part_healthy", "gauge", "1 while a part of the agent works, 0 while it fails.", ("part",)),
)  # fmt: skip
"""What ``counters`` shows of the device plugin and of the agent itself."""
