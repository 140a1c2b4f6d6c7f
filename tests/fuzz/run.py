"""Shows a cycle odd objects in any order; nothing may raise, and what it counts must stay within bounds."""

import traceback
import warnings
from collections import Counter
from dataclasses import dataclass, field

import msgspec
import numpy as np
from tests.fuzz.objects import Odd, text
from tests.worlds import START, policy

from tangram.api.objects import Metadata, Node, Pod
from tangram.scheduler.cycle import Cycle
from tangram.settings import SchedulerSettings
from tangram.snapshot import legal
from tangram.snapshot.arrays import Snapshot
from tangram.snapshot.nodes.inventory import NodeDevice

NODES = 4
_EVENTS = 250
"""Events of one world."""
_LOOK_EVERY = 100
_LARGEST = 1 << 61
POLICY = policy(
    {"name": "high", "weight": 3},
    {"name": "low", "weight": 1},
    queues=[{"name": "team", "weight": 2, "guarantee": {"cpu": "10", "gpu": 2}}, {"name": "b", "limit": {"gpu": 4}}],
    topologyLevels=[{"name": "a", "label": "a"}],
)
_PODS, _NODES = msgspec.json.Decoder(Pod), msgspec.json.Decoder(Node)


class _Named(msgspec.Struct):
    metadata: Metadata


@dataclass
class Found:
    """What a run has found."""

    pods: int = 0
    decisions: int = 0
    placed: int = 0
    set_aside: Counter[str] = field(default_factory=Counter)
    """Faults of objects that were set aside, by their words."""
    raised: Counter[str] = field(default_factory=Counter)
    """What was raised, which must not be."""
    illegal: Counter[str] = field(default_factory=Counter)
    """What was counted though it cannot be."""

    def add(self, other: "Found") -> None:
        """Count what another run has found, too."""
        self.pods, self.decisions = self.pods + other.pods, self.decisions + other.decisions
        self.placed += other.placed
        for mine, theirs in (
            (self.set_aside, other.set_aside), (self.raised, other.raised), (self.illegal, other.illegal),
        ):  # fmt: skip
            mine.update(theirs)


class Fuzz:
    """One world of odd objects."""

    def __init__(self, seed: int, found: Found) -> None:
        self.odd, self.found, self.now = Odd(seed), found, START
        self.cycle = Cycle(SchedulerSettings(batch=16, debug=True))
        self.pods: dict[str, Pod] = {}

    def run(self) -> None:
        """Live through it; whatever is raised is counted and ends this world."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", RuntimeWarning)  # an overflow of numpy's integers is one
                for number in range(_EVENTS):
                    self.event(number)
                    if number % _LOOK_EVERY == 0:
                        self.look()
        except Exception as error:  # noqa: BLE001 - that is what is looked for
            frames = traceback.extract_tb(error.__traceback__)
            last = next((one for one in reversed(frames) if "tangram/" in one.filename), frames[-1])
            self.found.raised[f"{type(error).__name__} at {last.filename}:{last.lineno}: {str(error)[:100]}"] += 1

    def event(self, number: int) -> None:
        """Something is shown."""
        odd, builder = self.odd, self.cycle.builder
        node = f"n{odd.random.randrange(NODES)}"
        kind = odd.random.random()
        if number < NODES or kind < 0.04:
            self.node_comes(f"n{number}" if number < NODES else node)
        elif kind < 0.05:
            builder.remove_node(node)
        elif kind < 0.07:
            builder.set_inventory(node, tuple(NodeDevice(*one) for one in odd.devices()))
        elif kind < 0.08:
            builder.set_links(node, tuple(map(tuple, odd.distances())))
        elif kind < 0.09:
            builder.set_policy(odd.one((None, POLICY)))
        elif kind < 0.1:
            builder.set_namespace(odd.one(("default", "日本")), odd.one((None, {"a": "b"})))
        elif kind < 0.15 and self.pods:
            self.pod_goes(odd.one(list(self.pods)))
        else:
            self.pod_comes(node)

    def node_comes(self, name: str) -> None:
        try:
            node = _NODES.decode(text(self.odd.node(name)))
        except (msgspec.MsgspecError, UnicodeError):
            return
        self.cycle.builder.put_node(node)

    def pod_comes(self, node: str) -> None:
        """A pod is new or has changed: what cannot be decoded is shown as the watch shows it."""
        self.found.pods += 1
        odd, builder = self.odd, self.cycle.builder
        known = odd.one(list(self.pods)) if self.pods and odd.chance(25) else f"p{self.found.pods}"
        where = node if odd.chance(35) else ""
        raw = text(odd.pod(known.removeprefix("uid-"), where))
        try:
            pod = _PODS.decode(raw)
        except (msgspec.MsgspecError, UnicodeError):
            try:
                metadata = msgspec.json.decode(raw, type=_Named).metadata
            except (msgspec.MsgspecError, UnicodeError):
                return
            builder.put_unreadable_pod(metadata, where)
            return
        self.cycle.observe_pod(self.pods.get(pod.metadata.uid), pod)
        self.pods[pod.metadata.uid] = pod

    def pod_goes(self, uid: str) -> None:
        self.cycle.observe_pod(self.pods.pop(uid), None)

    def look(self) -> None:
        """Decide, and let bindings hold or not."""
        self.now += self.odd.one((1, 5, 100))
        for fault in self.cycle.builder.take_faults():
            self.found.set_aside[f"{fault.about.kind}: {fault.sentence[:80]}"] += 1
        plan = self.cycle.decide(self.now)
        self.found.decisions += 1
        self.found.placed += len(plan.place)
        for place in plan.place:
            self.cycle.place_ended(place, held=self.odd.chance(70))
        for sentence in [*out_of_bounds(self.cycle.builder.snapshot(self.now)), *legal.miscounted(self.cycle.builder)]:
            self.found.illegal[sentence[:100]] += 1


def out_of_bounds(snapshot: Snapshot) -> list[str]:
    """Sums that have wrapped around, or are about to."""
    nodes, queues, shapes = snapshot.nodes, snapshot.queues, snapshot.shapes
    amounts = {
        "capacity": nodes.capacity, "request": shapes.request, "ask_count": shapes.ask_count,
        "ask_milli": shapes.ask_milli, "ask_memory": shapes.ask_memory, "usage": queues.usage, "pods": queues.pods,
        "device_memory": nodes.device_memory, "bound": snapshot.gangs.bound, "finished": snapshot.gangs.finished,
    }  # fmt: skip
    found = [f"{name} has a negative amount" for name, values in amounts.items() if values.size and values.min() < 0]
    return found + [
        f"{name} is near its end"
        for name, values in (amounts | {"free": nodes.free}).items()
        if values.size and int(np.abs(values.astype(np.int64)).max()) > _LARGEST
    ]


def fuzz(pods: int, seed: int) -> Found:
    """Show at least so many pods, in as many worlds as that takes."""
    found = Found()
    while found.pods < pods:
        Fuzz(seed, found).run()
        seed += 1
    return found
