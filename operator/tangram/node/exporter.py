"""Renders the last measurements of the node's GPUs for Prometheus.

The agent's one polling thread calls ``observe``; a scrape reads what that left behind and never asks the driver, so
that a driver which hangs makes old figures (``tangram_node_reading_age_seconds`` says how old), not a hanging scrape.
Every scrape is made from the last observation alone: what is gone from it is gone from the scrape.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, UntypedMetricFamily
from prometheus_client.registry import Collector

from tangram.metrics.table import GPUS
from tangram.metrics.table import Metric as Row
from tangram.node.gpus import Condition, Health, Holding, Inventory, Isolation, Reading
from tangram.node.isolation import possible
from tangram.node.processes import Processes
from tangram.node.usage import Meter, Shares, Usage
from tangram.units import HUNDREDTHS_PER_GPU, MIB

MOST_CONTAINERS: Final = 512
"""Containers exported from one node; the largest shares come first."""
_LONGEST_LABEL: Final = 253
"""As long as a pod's name can be: series of different pods must not become the same."""
_FAMILIES: Final = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily, "untyped": UntypedMetricFamily}

Samples = list[tuple[tuple[str, ...], float]]


@dataclass(frozen=True, slots=True)
class Observation:
    """What the agent knows at one time."""

    inventory: Inventory = field(default_factory=Inventory)
    conditions: Mapping[str, Condition] = field(default_factory=dict)
    readings: tuple[Reading, ...] = ()
    holdings: tuple[Holding, ...] = ()
    containers: Mapping[str, str] = field(default_factory=dict)
    """Container id (without the runtime's prefix) -> name, of the pods on this node."""
    mode: Isolation = Isolation.EXCLUSIVE
    mps_up: Mapping[str, bool] = field(default_factory=dict)
    """By uuid of the GPU, where it has an MPS daemon."""
    servers: frozenset[int] = frozenset()
    """Processes that serve the clients of shared GPUs and are nobody's, as numbers of the host."""
    ceilings_put_back: Mapping[str, int] = field(default_factory=dict)
    """By uuid: how often somebody else than the agent had changed what holds the clients of the GPU."""


class Exporter(Collector):
    """Exports ``metrics.table.GPUS``; register it once.

    ``clock`` is a steady clock in seconds; it must be safe to call from both threads.
    """

    def __init__(self, node: str, processes: Processes, clock: Callable[[], float]) -> None:
        self._node, self._clock = node, clock
        self._meter = Meter(processes)
        self._seen: tuple[Observation, Shares, float] = (Observation(), Shares(), clock())

    def observe(self, observation: Observation) -> Shares:
        """Keep what was measured and take it apart; the answer is for the node's status. On the polling thread only."""
        at = self._clock()
        gpus = observation.inventory.gpus
        readings = _without(observation.readings, observation.servers)
        shares = self._meter.measure(gpus, readings, observation.holdings, observation.containers, at)
        self._seen = observation, shares, at  # one assignment: a scrape sees all of it or none
        return shares

    def show(self, conditions: Mapping[str, Condition]) -> None:
        """Keep how the GPUs are while nothing can be measured; on any thread."""
        observation, shares, at = self._seen
        self._seen = replace(observation, conditions=conditions), shares, at

    def collect(self) -> Iterator[Metric]:
        """All families of the table, from one observation."""
        observation, shares, at = self._seen
        kept, left_out = _most_important(shares.usages)
        samples: dict[str, Samples] = {metric.name: [] for metric in GPUS}
        _devices(samples, observation, self._node)
        _containers(samples, observation, kept, self._node)
        _conditions(samples, observation, shares)
        samples["tangram_node_reading_age_seconds"] = [((), max(0.0, self._clock() - at))]
        samples["tangram_node_process_metrics"] = [((shares.blindness,), float(not shares.blindness))]
        samples["tangram_node_containers_left_out"] = [((), float(left_out))]
        for metric in GPUS:
            yield _family(metric, samples[metric.name])


def _family(metric: Row, samples: Samples) -> Metric:
    family: CounterMetricFamily | GaugeMetricFamily | UntypedMetricFamily = _FAMILIES[metric.type](
        metric.name, metric.help, labels=metric.labels
    )
    for labels, value in samples:
        family.add_metric([label[:_LONGEST_LABEL] for label in labels], value)
    return family


def _most_important(usages: Sequence[Usage]) -> tuple[Sequence[Usage], int]:
    """What is exported, and how much is not.

    A pod that was deleted and made again under its name can hold devices twice for a moment; series have no uid.
    """
    named = {(one.holding.namespace, one.holding.pod, one.holding.container, one.holding.uuid): one for one in usages}
    ranked = sorted(named, key=lambda key: (-named[key].holding.share, key))[:MOST_CONTAINERS]
    return [named[key] for key in ranked], len(named) - len(ranked)


def _devices(samples: dict[str, Samples], observation: Observation, node: str) -> None:
    read = {reading.uuid: reading for reading in observation.readings}
    whole = {one.uuid: one for one in observation.holdings if one.share == HUNDREDTHS_PER_GPU}
    for gpu in observation.inventory.gpus:
        reading = read.get(gpu.uuid)
        if reading is None:
            continue
        holder = whole.get(gpu.uuid)
        labels = (
            str(gpu.index), gpu.uuid, gpu.pci_address, f"nvidia{gpu.minor_number}" if gpu.minor_number >= 0 else "",
            gpu.name or gpu.model, node,
            *((holder.namespace, holder.pod, holder.container) if holder else ("", "", "")),
        )  # fmt: skip
        for name, value in _device_values(reading):
            if value is not None:
                samples[name].append((labels, float(value)))


def _device_values(reading: Reading) -> tuple[tuple[str, float | None], ...]:
    return (
        ("DCGM_FI_DEV_GPU_UTIL", reading.sm_percent),
        ("DCGM_FI_DEV_MEM_COPY_UTIL", reading.memory_percent),
        ("DCGM_FI_DEV_FB_USED", reading.memory_used_mib),
        ("DCGM_FI_DEV_FB_FREE", reading.memory_free_mib),
        ("DCGM_FI_DEV_POWER_USAGE", reading.power_watts),
        ("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", reading.energy_millijoules),
        ("DCGM_FI_DEV_GPU_TEMP", reading.temperature_celsius),
        ("DCGM_FI_DEV_SM_CLOCK", reading.sm_clock_mhz),
        ("DCGM_FI_DEV_MEM_CLOCK", reading.memory_clock_mhz),
        ("DCGM_FI_DEV_XID_ERRORS", reading.xid or 0),
        ("DCGM_FI_DEV_ECC_SBE_VOL_TOTAL", reading.ecc_corrected),
        ("DCGM_FI_DEV_ECC_DBE_VOL_TOTAL", reading.ecc_uncorrected),
        ("tangram_gpu_remapped_rows", reading.remapped_rows),
    )


def _containers(samples: dict[str, Samples], observation: Observation, usages: Sequence[Usage], node: str) -> None:
    owners = {uuid: gpu for gpu in observation.inventory.gpus for uuid in (gpu.uuid, *(s.uuid for s in gpu.slices))}
    for usage in usages:
        holding, gpu = usage.holding, owners[usage.holding.uuid]
        labels = (
            str(gpu.index), holding.uuid, gpu.name or gpu.model, node,
            holding.namespace, holding.pod, holding.container,
        )  # fmt: skip
        limited = holding.share < HUNDREDTHS_PER_GPU and possible(observation.mode, gpu)[0] is Isolation.MPS
        for name, value in _container_values(usage, limited=limited):
            if value is not None:
                samples[name].append((labels, float(value)))


def _container_values(usage: Usage, *, limited: bool) -> tuple[tuple[str, float | None], ...]:
    share, used, sm = usage.holding.share / HUNDREDTHS_PER_GPU, usage.memory_used_mib, usage.sm_percent
    over = None if used is None else float(used > usage.memory_limit_mib)
    return (
        ("tangram_container_gpu_share_ratio", share),
        ("tangram_container_gpu_mps_thread_ratio", share if limited else None),
        ("tangram_container_gpu_memory_limit_bytes", usage.memory_limit_mib * MIB),
        ("tangram_container_gpu_memory_used_bytes", None if used is None else used * MIB),
        ("tangram_container_gpu_memory_over_limit", over),
        ("tangram_container_gpu_sm_ratio", None if sm is None else sm / 100),
        ("tangram_container_gpu_power_watts", usage.power_watts),
        ("tangram_container_gpu_energy_joules_total", usage.energy_joules),
    )


def _without(readings: Sequence[Reading], servers: frozenset[int]) -> tuple[Reading, ...]:
    """The readings, as if these processes were not on the GPUs."""
    return tuple(
        replace(one, processes=tuple(process for process in one.processes if process.pid not in servers))
        if servers and one.processes
        else one
        for one in readings
    )


def _conditions(samples: dict[str, Samples], observation: Observation, shares: Shares) -> None:
    for uuid, condition in observation.conditions.items():
        healthy = float(condition.health is Health.HEALTHY)
        samples["tangram_gpu_healthy"].append(((uuid, condition.health.value), healthy))
        samples["tangram_gpu_at_risk"].append(((uuid,), float(bool(condition.at_risk))))
    for gpu in observation.inventory.gpus:
        mode = possible(observation.mode, gpu)[0].value
        samples["tangram_gpu_isolation_info"].append(((gpu.uuid, mode), 1.0))
    for uuid, up in observation.mps_up.items():
        samples["tangram_gpu_mps_up"].append(((uuid,), float(up)))
    for uuid, times in observation.ceilings_put_back.items():
        samples["tangram_gpu_mps_ceilings_put_back_total"].append(((uuid,), float(times)))
    for uuid, stray in (shares.strays or {}).items():
        samples["tangram_gpu_stray_processes"].append(((uuid,), float(stray.processes)))
        samples["tangram_gpu_stray_memory_bytes"].append(((uuid,), float(stray.memory_mib * MIB)))
