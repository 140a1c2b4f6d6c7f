"""What the containers of a pod ask of devices together: those of finished init containers go on to the next ones.

The kubelet gives the devices of an init container that has ended to the pod's containers after it, in their order and
before any others (kubelet 1.36, ``devicesToAllocate``). So these containers have to be on the same devices.
"""

from collections.abc import Sequence

import msgspec

from tangram import units

MOST_DEVICES = 1024
"""More devices on one node than this is a broken report or request."""
LARGEST_DEVICE_MIB = 1 << 27
"""128 TiB on one device."""


class Ask(msgspec.Struct, frozen=True, gc=False):
    """``count`` devices with ``milli`` of each, and ``memory`` MiB of each (0: in proportion)."""

    count: int
    milli: int
    memory: int = 0


class Given(msgspec.Struct, frozen=True, gc=False):
    """What one container gets of an ask of its pod: so much of its devices from ``first`` on."""

    container: str
    ask: int
    part: Ask
    first: int = 0
    passing: bool = False
    """It is an init container that ends before the next one starts."""


class Step(msgspec.Struct, frozen=True, gc=False):
    """A container that wants devices, in the order in which the kubelet gives them out."""

    container: str
    resource: str
    ask: Ask
    passing: bool = False


def shared(steps: Sequence[Step]) -> tuple[tuple[Ask, ...], tuple[Given, ...]]:
    """(asks, what each container gets of them); raises ValueError where the kubelet could not give that out."""
    if len(steps) == 1:
        (step,) = steps
        return (step.ask,), (Given(step.container, 0, step.ask, 0, step.passing),)
    asks, given = list[Ask](), list[Given]()
    for group in _groups(steps):
        together, firsts = _together([steps[index] for index in group])
        for index, first in zip(group, firsts, strict=True):
            step = steps[index]
            given.append(Given(step.container, len(asks), step.ask, first, step.passing))
        asks.append(together)
    if sum(ask.count for ask in asks) > MOST_DEVICES:
        raise ValueError(f"the containers together ask for more devices than any node has; allowed: {MOST_DEVICES}")
    return tuple(asks), tuple(given)


def _groups(steps: Sequence[Step]) -> list[list[int]]:
    """Places of the steps that need the same devices; each group and all of them in order."""
    group = list(range(len(steps)))
    for place, step in enumerate(steps):
        left = step.ask.count * step.ask.milli if step.passing else 0
        for other in range(place + 1, len(steps)):
            if left > 0 and steps[other].resource == step.resource:
                old, new = group[other], group[place]
                group = [new if one == old else one for one in group]
                if not steps[other].passing:
                    left -= steps[other].ask.count * steps[other].ask.milli
    return [[place for place, one in enumerate(group) if one == name] for name in sorted(set(group))]


def _together(steps: Sequence[Step]) -> tuple[Ask, list[int]]:
    """(the ask that holds them all, the first of its devices that each of them gets)."""
    passing = [step.ask for step in steps if step.passing]
    lasting = [step.ask for step in steps if not step.passing]
    if all(step.ask.count == 1 for step in steps):
        milli = max([sum(ask.milli for ask in lasting), *(ask.milli for ask in passing)])
        memory = max([sum(ask.memory for ask in lasting), *(ask.memory for ask in passing)])
        if milli > units.MILLI_PER_GPU:
            raise _refused(steps, "no more than one GPU for all of them")
        if memory > LARGEST_DEVICE_MIB:
            raise _refused(steps, "together no more memory than a GPU has")
        return Ask(1, milli, memory), [0] * len(steps)
    if any(step.ask.milli < units.MILLI_PER_GPU for step in steps):
        raise _refused(steps, "parts of one GPU, or whole GPUs, for all of them")
    firsts, count = list[int](), 0
    for step in steps:
        firsts.append(0 if step.passing else count)
        count += 0 if step.passing else step.ask.count
    memory = max(step.ask.memory for step in steps)
    return Ask(max([count, *(ask.count for ask in passing)]), units.MILLI_PER_GPU, memory), firsts


def _refused(steps: Sequence[Step], allowed: str) -> ValueError:
    names = ", ".join(step.container for step in steps)
    return ValueError(
        f"containers {names}: {steps[0].container} hands its GPUs on to the next ones; allowed: {allowed}"
    )
