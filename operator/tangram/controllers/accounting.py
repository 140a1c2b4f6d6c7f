"""What is held and what it has cost in time: GPU-seconds that survive a restart of the controller.

The status says what has been held since when. At each change of what is held, and from time to time in between, the
product is added and the clock set forward; so nothing has to be remembered outside the object.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from tangram.api import names
from tangram.api.common import HeldGpus
from tangram.api.objects import read_gpus
from tangram.api.training import NodePlacement
from tangram.api.views import PodView
from tangram.controllers import amounts
from tangram.units import MILLI_PER_GPU, quantity, rfc3339, timestamp_seconds

_LEAST_SECONDS = 60
_LEAST_GPU_SECONDS = 20
_MOST_SECONDS = 3600


@dataclass(frozen=True, slots=True)
class Account:
    """GPU-seconds up to ``time``, and what is held from then on."""

    gpu_seconds: int = 0
    held: HeldGpus | None = None
    time: str | None = None


def held_milli(pods: Iterable[PodView]) -> int:
    """GPUs that the pods hold: from the binding until the last container has ended. In milli-GPU."""
    return sum(pod_milli(pod) for pod in pods if pod.bound and not pod.ended)


def pod_milli(pod: PodView) -> int:
    """GPUs that a pod asks for, in milli-GPU."""
    return amounts.held_milli(
        (container.resources for container in pod.spec.containers),
        ((one.resources, one.restart_policy == "Always") for one in pod.spec.init_containers),
    )


def unseen(account: Account, pods: Iterable[PodView], now: float) -> int:
    """What pods held otherwise, since the account was last written, than what it says was held all the time, in
    milli-GPU-seconds: less by those that have ended since, more by those that have come. A controller that was away
    over a weekend does not charge the weekend for what ended on Friday."""
    since, end, found = timestamp_seconds(account.time), int(now), 0
    for pod in pods:
        if not pod.bound:
            continue
        came, left = pod.bound_at or since or end, min(pod.finished, end) if pod.ended else end
        if came > since:
            found += pod_milli(pod) * max(0, left - came)
        elif pod.ended and left > since:
            found -= pod_milli(pod) * (end - left)
    return found


def accrue(account: Account, milli: int, now: float, other: int = 0, *, closing: bool = False) -> Account:
    """The account at ``now``, when ``milli`` is held from now on; the same account while nothing is worth a write.

    ``other``: what was held besides, or less, as ``unseen`` says it.
    """
    before = _milli(account.held)
    since = timestamp_seconds(account.time)
    passed = max(0, int(now) - since) if account.time is not None else 0
    if before != milli or other or (closing and before):
        total = account.gpu_seconds + max(0, round((before * passed + other) / MILLI_PER_GPU))
        return Account(total, _amounts(milli) if milli else None, rfc3339(now))
    if milli == 0 or passed < interval(milli):
        return account
    # The clock goes on only by what whole GPU-seconds took, so that nothing is lost to rounding.
    whole = milli * passed // MILLI_PER_GPU
    return Account(account.gpu_seconds + whole, account.held, rfc3339(since + whole * MILLI_PER_GPU // milli))


def interval(milli: int) -> int:
    """Seconds between two writes of the account: small shares wait until rounding does not matter."""
    return max(_LEAST_SECONDS, min(_MOST_SECONDS, _LEAST_GPU_SECONDS * MILLI_PER_GPU // max(1, milli)))


def next_settlement(account: Account, now: float) -> float | None:
    """Seconds until the account should be brought up to date; None while nothing is held."""
    milli = _milli(account.held)
    if not milli:
        return None
    return max(1.0, timestamp_seconds(account.time) + interval(milli) - now)


def _milli(held: HeldGpus | None) -> int:
    return 0 if held is None or held.gpu is None else quantity(held.gpu, 1, MILLI_PER_GPU)


def _amounts(milli: int) -> HeldGpus:
    return HeldGpus(gpu=f"{milli // MILLI_PER_GPU}" if milli % MILLI_PER_GPU == 0 else f"{milli / MILLI_PER_GPU:.3f}")


def placement(pods: Iterable[PodView], most: int = 2048) -> tuple[NodePlacement, ...]:
    """Where pods are or have ended, by node in name order; ids of devices as the scheduler recorded them."""
    replicas: dict[str, int] = defaultdict(int)
    devices: dict[str, set[str]] = defaultdict(set)
    for pod in pods:
        if pod.bound:
            replicas[pod.spec.node_name] += 1
            devices[pod.spec.node_name].update(_devices(pod))
    return tuple(
        NodePlacement(node=node, replicas=replicas[node], gpus=tuple(sorted(devices[node]))[:64])
        for node in sorted(replicas)[:most]
    )


def _devices(pod: PodView) -> set[str]:
    text = pod.metadata.annotations.get(names.GPUS)
    if text is None:
        return set()
    try:
        shares = read_gpus(text)
    except ValueError:
        return set()  # whoever must not trust it says so; here it is only not shown
    return {device.id for devices in shares.values() for device in devices}
