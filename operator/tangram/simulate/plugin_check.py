"""Whether a plugin keeps what it has to keep, found out in small simulated worlds (``tangram plugin check``).

Two schedulers watch each world. One remembers what it has worked out; the other one forgets everything before each
cycle, and has its nodes in another order. One thing happens at a time; then both must say the same of every pod on
every node, and decide the same, or the plugin looks at something that it has not declared.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any

import msgspec
import numpy as np
from msgspec.structs import replace

from tangram.api import names
from tangram.api.objects import Container, Metadata, Node, NodeStatus, Pod, PodSpec, Resources
from tangram.api.policy import HybridPolicy, parse_policy
from tangram.decide.codes import FITS
from tangram.decide.memory import Memory
from tangram.decide.registry import Registry
from tangram.decide.scores import Scores
from tangram.scheduler.cycle import Cycle
from tangram.simulate.plugin_tally import Tally, Watched
from tangram.simulate.watching import Kind
from tangram.simulate.world import World
from tangram.snapshot.arrays import Snapshot

_STEPS = 24
"""Things that happen in each world."""
_LABEL_VALUE = re.compile("[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_ASKS: tuple[dict[str, int], ...] = (
    {}, {names.FRACTION_RESOURCE: 30}, {names.FRACTION_RESOURCE: 50}, {names.GPU_RESOURCE: 1}, {names.GPU_RESOURCE: 2},
)  # fmt: skip
_CLASSES = ({"name": "high", "weight": 3}, {"name": "low", "weight": 1})
_WHY = "it looks at something that it does not declare, or its prepare does not say that it has changed"


@dataclass(slots=True)
class Report:
    """What has been found out."""

    worlds: int = 0
    cycles: int = 0
    findings: dict[str, str] = field(default_factory=dict)
    """What is wrong -> the first time that it was seen."""
    tally: Tally = field(default_factory=Tally)


def check(registry: Registry, name: str, args: Mapping[str, Any], worlds: int, seed: int = 0) -> Report:
    """Run the plugin in so many worlds. Raises PluginError when it cannot be had or does not take the arguments."""
    report = Report()
    registry.create(name, msgspec.json.encode(args).decode() if args else "")
    for number in range(worlds):
        chance = Random(seed + number)  # noqa: S311 - a check has to be repeatable, not secret
        trial = _Trial(Watched(registry, name, report.tally), _policy(name, args, number), chance, report)
        for _ in range(_STEPS):
            trial.step()
        report.worlds += 1
    return report


def _policy(name: str, args: Mapping[str, Any], number: int) -> HybridPolicy:
    """Every other world has the default strategy beside the plugin, every other pair lets high pods evict low ones."""
    plugins: list[dict[str, Any]] = [{"name": name, "args": dict(args)}]
    if number % 2 and name != "bid-price":
        plugins.append({"name": "bid-price", "weight": 0})
    return parse_policy(
        {
            "apiVersion": names.API_VERSION,
            "kind": "HybridPolicy",
            "metadata": {"name": "check"},
            "spec": {
                "priorityClasses": list(_CLASSES),
                "fallbackStrategy": "preempt" if number % 4 < 2 else "best-effort",
                "placement": {"plugins": plugins},
            },
        }
    )


def _label_values(plugin: object, args: Mapping[str, Any]) -> list[str]:
    """What may be a value of a label that the plugin reads: texts in its arguments and in its code, and two others."""
    found = {*_texts(args), "x", "y"}
    for part in vars(type(plugin)).values():
        code = getattr(part, "__code__", None)
        if code is not None:
            named = (part.__globals__.get(name) for name in code.co_names)
            found.update(_texts([code.co_consts, *named]))
    return sorted(text for text in found if _LABEL_VALUE.fullmatch(text))


def _texts(value: object) -> Iterator[str]:
    """All texts in a value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, entry in value.items():
            yield from _texts(key)
            yield from _texts(entry)
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _texts(entry)


class _Trial:
    """One world and its two schedulers."""

    def __init__(self, registry: Watched, policy: HybridPolicy, chance: Random, report: Report) -> None:
        self._registry, self._chance, self._report = registry, chance, report
        choice = policy.spec.placement.plugins[0]
        self._name = choice.name
        plugin: Any = registry.create(choice.name, msgspec.json.encode(choice.args).decode() if choice.args else "")
        self._node_keys, self._pod_keys = (tuple(getattr(plugin, key, ())) for key in ("node_labels", "pod_labels"))
        self._values = _label_values(plugin, choice.args)
        self._count = 0
        self._world = World(self._node() for _ in range(6))
        self._world.clock.advance(1_700_000_000)
        self._cycles = tuple(Cycle(registry=registry) for _ in range(2))
        for cycle, nodes in zip(self._cycles, (self._nodes, list(reversed(self._nodes))), strict=True):
            cycle.builder.set_policy(policy)
            for node in nodes:
                cycle.builder.put_node(node)
            self._world.watch(partial(_observe_node, cycle), cycle.observe_pod)
        self._requests = [self._request() for _ in range(8)]
        self._known: dict[str, tuple[Pod, int, int]] = {}
        """What a pod asks for -> such a pod, and the row of its shape in either scheduler."""

    @property
    def _nodes(self) -> list[Node]:
        return list(self._world.nodes.values())

    def step(self) -> None:
        """Let one thing happen, compare what the schedulers say, and do what they decide."""
        chance, now = self._chance, self._world.clock.now
        happening = chance.choice(
            [
                self._create,
                self._create,
                self._end,
                self._change_node,
                self._change_pod,
                self._wait,
                self._bind,
                self._move,
            ]
        )
        happened = happening()
        now, (one, other) = self._world.clock.now, self._cycles
        self._compare(one.builder.snapshot(now), other.builder.snapshot(now), happened)
        other.memory = Memory(self._registry)
        plan, afresh = one.decide(now), other.decide(now)
        self._report.cycles += 1
        for fault in (*plan.faults, *afresh.faults):
            if fault.startswith(f"{self._name}: "):
                self._find(fault.partition(": ")[2], f"after {happened}")
        if (plan.place, plan.evict) != (afresh.place, afresh.evict):
            self._find("decisions differ between a scheduler that remembers and one that does not", f"after {happened}")
        for place in plan.place:
            for cycle in self._cycles:
                cycle.place_ended(place, held=True)
            self._world.bind(place)
        for evict in plan.evict:
            self._world.evict(evict)
        if plan != afresh:  # go on from one state
            for cycle in self._cycles:
                cycle.memory = Memory(self._registry)

    # ---- what is compared

    def _compare(self, snapshot: Snapshot, turned: Snapshot, happened: str) -> None:
        before = _content(snapshot)
        pool, remembered = self._cycles[0].memory.observe(snapshot)
        (_, fresh), (_, again), (_, other) = (
            Memory(self._registry).observe(shown) for shown in (snapshot, snapshot, turned)
        )
        self._note_shapes(snapshot, turned)
        for pod, shape, turned_shape in self._known.values():
            kept, now, same = (_answers(scores, shape) for scores in (remembered, fresh, again))
            if now != same:
                self._differ("answers differ from one time to the next", pod, now, same, "asked twice")
            elif kept != now:
                self._differ(
                    f"what is remembered differs from what is worked out anew: {_WHY}", pod, kept, now, happened
                )
            elif now != (turned_answers := _answers(other, turned_shape)):
                self._differ("answers depend on the order of rows", pod, now, turned_answers, happened)
        if _content(snapshot) != before or not np.array_equal(pool.free, snapshot.nodes.free):
            self._find("it writes to what it is shown", f"after {happened}")
        for scores in (remembered, fresh):
            for fault in (scores.plugins.clipped | scores.plugins.faults).get(self._name, "").splitlines():
                self._find(fault, f"after {happened}")

    def _note_shapes(self, snapshot: Snapshot, turned: Snapshot) -> None:
        """Remember the rows of shapes that wait."""
        rows = [
            {one.pending.names[slot].name: int(one.pending.shape[slot]) for slot in np.flatnonzero(one.pending.waiting)}
            for one in (snapshot, turned)
        ]
        for pod in self._world.pods.values():
            name = pod.metadata.name
            if name in rows[0] and name in rows[1]:
                self._known[_words(pod)] = (pod, rows[0][name], rows[1][name])

    def _differ(self, what: str, pod: Pod, one: "_Said", other: "_Said", happened: str) -> None:
        node = next(name for name in one if one[name] != other.get(name))
        shown = " and then ".join(_shown(said.get(node, (0, -1))) for said in (one, other))
        self._find(what, f"{_words(pod)}: node {node} {shown}, after {happened}")

    def _find(self, what: str, where: str) -> None:
        self._report.findings.setdefault(what, where)

    # ---- what happens; each says in words what it was

    def _wait(self) -> str:
        seconds = self._chance.randint(1, 90)
        self._world.run(self._world.clock.now + seconds)
        return f"{seconds} seconds"

    def _create(self) -> str:
        made = [self._pod() for _ in range(self._chance.randint(1, 3))]
        for pod in made:
            self._world.submit(pod)
        return f"{len(made)} pods were created"

    def _end(self) -> str:
        runs = [key for key, pod in self._world.pods.items() if pod.spec.node_name]
        for key in self._chance.sample(runs, min(2, len(runs))):
            self._world.end(*key)
        return "pods ended"

    def _bind(self) -> str:
        """Another scheduler fills a node, maybe beyond what it has."""
        node, pod = self._chance.choice(self._nodes).metadata.name, self._pod()
        resources = Resources({"cpu": self._chance.choice([1, 8, 40]), "memory": "8Gi"})
        spec = replace(pod.spec, containers=(Container("main", resources),), scheduler_name="default-scheduler")
        self._world.submit(replace(pod, spec=spec))
        self._world.bind_elsewhere(pod.metadata.namespace, pod.metadata.name, node)
        return f"another scheduler put a pod on node {node}"

    def _change_node(self) -> str:
        node = self._chance.choice(self._nodes)
        labels = {**node.metadata.labels, "example.com/other": self._chance.choice(self._values)}
        labels = {key: value for key, value in labels.items() if key not in self._node_keys}
        labels |= self._labels(self._node_keys)
        self._world.put_node(replace(node, metadata=replace(node.metadata, labels=labels)))
        return f"the labels of node {node.metadata.name} changed"

    def _change_pod(self) -> str:
        waits = [(key, pod) for key, pod in self._world.pods.items() if not pod.spec.node_name]
        if not waits:
            return self._create()
        key, pod = self._chance.choice(waits)
        labels = {name: value for name, value in pod.metadata.labels.items() if name not in self._pod_keys}
        labels |= self._labels(self._pod_keys)
        self._world.put(Kind.POD, key, replace(pod, metadata=replace(pod.metadata, labels=labels)))
        return f"the labels of pod {pod.metadata.name} changed"

    def _move(self) -> str:
        """Nodes come and go."""
        nodes = self._nodes
        if len(nodes) > 4 and self._chance.random() < 0.5:
            gone = self._chance.choice(nodes).metadata.name
            self._world.remove_node(gone)
            return f"node {gone} was removed"
        added = self._node()
        self._world.put_node(added)
        return f"node {added.metadata.name} was added"

    # ---- what there is

    def _labels(self, keys: tuple[str, ...]) -> dict[str, str]:
        return {key: self._chance.choice(self._values) for key in keys if self._chance.random() < 0.75}

    def _node(self) -> Node:
        self._count += 1
        gpus, cpu = self._chance.choice([0, 2, 4]), self._chance.choice([8, 32])
        found: dict[str, str | int | float] = {"cpu": cpu, "memory": "64Gi", "pods": 30}
        labels = {"kubernetes.io/hostname": f"n{self._count}"} | self._labels(self._node_keys)
        if gpus:
            found |= {names.GPU_RESOURCE: gpus, names.FRACTION_RESOURCE: 100 * gpus}
            labels["nvidia.com/gpu.product"] = self._chance.choice(["A100", "H100"])
        return Node(Metadata(f"n{self._count}", labels=labels), status=NodeStatus(found))

    def _request(self) -> tuple[Resources, dict[str, str]]:
        asks: dict[str, str | int | float] = {"cpu": self._chance.choice([1, 4]), "memory": "1Gi"}
        labels = {names.PRIORITY_CLASS: self._chance.choice(["high", "low"])} | self._labels(self._pod_keys)
        return Resources(asks | self._chance.choice(_ASKS)), labels

    def _pod(self) -> Pod:
        self._count += 1
        resources, labels = self._chance.choice(self._requests)
        spec = PodSpec((Container("main", resources),), scheduler_name=names.SCHEDULER_NAME)
        return Pod(Metadata(f"p{self._count}", "default", labels=labels), spec)


_Said = dict[str, tuple[int, int]]
"""Node -> (reason code, score)."""


def _answers(scores: Scores, shape: int) -> _Said:
    found, nodes = scores.scores(shape), scores.snapshot.nodes
    codes = scores.reasons(shape)
    return {nodes.names[row]: (int(codes[row]), int(found[row])) for row in np.flatnonzero(nodes.present)}


def _shown(said: tuple[int, int]) -> str:
    code, score = said
    return f"scored {score}" if code == FITS else "was not allowed"


def _words(pod: Pod) -> str:
    asked = ", ".join(f"{key} {value}" for key, value in sorted(pod.spec.containers[0].resources.requests.items()))
    labels = ", ".join(f"{key}={value}" for key, value in sorted(pod.metadata.labels.items()))
    return f"pod with {asked}" + (f" and labels {labels}" if labels else "")


def _content(snapshot: Snapshot) -> list[bytes]:
    tables = (snapshot.nodes, snapshot.shapes, snapshot.pending)
    values = (getattr(table, name) for table in tables for name in table.__dataclass_fields__)
    return [value.tobytes() for value in values if isinstance(value, np.ndarray)]


def _observe_node(cycle: Cycle, old: Node | None, new: Node | None) -> None:
    if new is not None:
        cycle.builder.put_node(new)
    elif old is not None:
        cycle.builder.remove_node(old.metadata.name)
