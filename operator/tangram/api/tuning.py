"""The parts of a HybridPolicy that tune: placement, sharing, load, rescheduling, prices."""

from typing import Annotated, Any, Literal

from pydantic import Field

from tangram.api.common import Duration, LabelValue, Model, Name, Percent
from tangram.api.schema import Extra, ListMap, Text

MOST_PLUGINS = 32


class Plugin(Model):
    """A scoring plugin and how much its opinion counts."""

    name: Name
    """Name under which the plugin is registered."""
    weight: Annotated[int, Field(ge=0, le=100)] = 1
    """Weight of its score; 0 turns it off."""
    args: Annotated[dict[str, Any], Extra({"x-kubernetes-preserve-unknown-fields": True})] = Field(default_factory=dict)
    """Arguments of the plugin, which says itself what it takes."""


class PluginFault(Model):
    """A plugin that fails."""

    name: Name
    """Name under which the policy names it."""
    message: Annotated[str, Field(max_length=1024)] = ""
    """What is wrong with it."""


class Placement(Model):
    """How a node is chosen among those that fit."""

    strategy: Literal["bid-price", "fragmentation", "pack", "spread"] = "bid-price"
    """bid-price keeps the free space that the arriving workload values most, fragmentation keeps GPUs usable for what
    usually arrives, pack fills nodes one by one, spread evens them out."""
    vulnerable_nodes: Literal["Use", "Avoid", "Exclude"] = "Use"
    """Nodes whose GPUNode names known holes of container runtime or toolkit: Use them as others, Avoid them while there
    are others, Exclude them for new pods, as a taint of theirs would."""
    plugins: Annotated[tuple[Plugin, ...], ListMap("name", MOST_PLUGINS)] = ()
    """Further plugins by name, with the weights of those that score; those not named keep their defaults."""


class Sharing(Model):
    """How far one GPU is shared."""

    max_tenants_per_gpu: Annotated[int, Field(ge=1, le=100)] = 48
    """Containers that may share one GPU; NVIDIA's MPS serves 48 clients of one device."""
    memory_overcommit_percent: Annotated[int, Field(ge=100, le=400)] = 100
    """GPU memory that may be promised, in percent of what the device has."""


class LoadThresholds(Model):
    """Average loads, in percent, above which a node takes no new work."""

    cpu: Percent = 65
    """CPU use."""
    memory: Percent = 95
    """Memory use."""
    gpu: Percent = 95
    """GPU utilisation."""
    gpu_memory: Percent = 98
    """GPU memory in use."""


class LoadPeaks(Model):
    """Peak loads, in percent, above which a node takes no new work."""

    cpu: Percent = 80
    """CPU use."""
    memory: Percent = 98
    """Memory use."""
    gpu: Percent = 100
    """GPU utilisation."""
    gpu_memory: Percent = 100
    """GPU memory in use."""


class LoadAware(Model):
    """Placement by measured load beside requests."""

    enabled: bool = False
    """Whether measured load counts."""
    average_window: Duration = "5m"
    """Time over which load is averaged."""
    peak_window: Duration = "1h"
    """Time over which the peak is taken."""
    stale_after: Duration = "3m"
    """Age at which a measurement no longer counts."""
    average: LoadThresholds = Field(default_factory=LoadThresholds)
    """Thresholds of the average."""
    peak: LoadPeaks = Field(default_factory=LoadPeaks)
    """Thresholds of the peak."""


class MoveSla(Model):
    """What makes moving running work worth while."""

    max_wait: Duration = "10m"
    """Wait of a workload that would fit after moves, after which moves are considered for it."""
    min_runtime: Duration = "10m"
    """How long a workload runs undisturbed before it can be moved."""


class MoveBudgets(Model):
    """How much disturbance is allowed."""

    max_moves: Annotated[int, Field(ge=0, le=1000)] = 10
    """Moves of one run."""
    max_concurrent: Annotated[int, Field(ge=1, le=100)] = 2
    """Moves that go on at one time."""
    max_lost_gpu_minutes: Annotated[int, Field(ge=0, le=1_000_000)] = 60
    """GPU-minutes of work that one run may throw away."""
    cooldown: Duration = "1h"
    """How long a workload that was moved is left alone."""


_MINUTE, _HOUR = "[0-5]?[0-9]", "(1?[0-9]|2[0-3])"
_DAY, _MONTH, _WEEKDAY = "([1-9]|[12][0-9]|3[01])", "([1-9]|1[0-2])", "[0-7]"


def _cron_field(number: str) -> str:
    item = rf"(\*|{number}(-{number})?)(/[1-9][0-9]?)?"
    return f"{item}(,{item})*"


Cron = Annotated[
    str,
    Text(
        " ".join(_cron_field(number) for number in (_MINUTE, _HOUR, _DAY, _MONTH, _WEEKDAY)),
        "five fields (minute, hour, day of month, month, day of week) such as */15 * * * *",
        128,
    ),
]


class Rescheduling(Model):
    """Moving running work so that waiting work fits (defragmentation)."""

    dry_run: bool = True
    """Only report the moves that would be made."""
    schedule: Cron = "*/15 * * * *"
    """When to look for moves, as five cron fields."""
    time_zone: Annotated[str, Text("[A-Za-z0-9+_/-]+", "a time zone such as Europe/Berlin", 64)] = "UTC"
    """Time zone of the schedule, by its IANA name."""
    sla: MoveSla = Field(default_factory=MoveSla)
    """What makes moves worth while."""
    budgets: MoveBudgets = Field(default_factory=MoveBudgets)
    """How much disturbance is allowed."""
    evict_from_unhealthy_after: Duration | None = None
    """Pods on a GPU that has been Unhealthy for so long are evicted, so that they start again elsewhere; without it
    they stay. PodDisruptionBudgets are kept to."""


Price = Annotated[float, Field(ge=0, le=1_000_000)]


class Prices(Model):
    """What a GPU costs, for showing costs per workload and queue."""

    currency: Annotated[str, Text("[A-Z]{3}", "a currency code such as EUR", 3)] = "USD"
    """Currency of the prices, as an ISO 4217 code."""
    default_per_hour: Price = 0.0
    """Price of one hour of one GPU whose model is not named below."""
    per_hour: Annotated[dict[LabelValue, Price], Field(max_length=64), Extra({"maxProperties": 64})] = Field(
        default_factory=dict
    )
    """Price of one hour of one GPU, by model; a fraction of a GPU costs that fraction."""
