"""Histories drawn from a seed. Each kind is about some of the things that happen to a cluster; ``all`` is about all."""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from msgspec.structs import replace
from tests.histories import history as h
from tests.worlds import START, node, pod, with_spec

from tangram.api import names
from tangram.api.objects import (
    Affinity,
    ClaimReference,
    LabelSelector,
    Node,
    OwnerReference,
    Pod,
    PodAffinity,
    PodAffinityTerm,
    PodVolume,
    Taint,
    TopologySpreadConstraint,
)
from tangram.simulate.storage import Driver
from tangram.simulate.watching import Kind

KINDS = (
    "known", "arrivals", "refusals", "watches", "volumes", "restarts", "nodes", "policies", "all", "company",
    "neighbours",
)  # fmt: skip
_WEIGHTS = (30, 16, 11, 9, 7, 9, 7, 4, 7, 7, 10)
_MOST_PODS = 25
_OTHERS = "default-scheduler"
_ZONES = ("a", "b")
_PLACES = ("kubernetes.io/hostname", "topology.kubernetes.io/zone", "topology.kubernetes.io/rack")
_APPS = ("web", "db", "x", "y")


def draw(seed: int, only: str = "") -> h.History:
    """The history of a seed; ``only`` one kind, or (empty) any."""
    chance = Random(f"{seed}/{only}")
    kind = only or chance.choices(KINDS, _WEIGHTS)[0]
    return _Drawing(chance, kind).history(seed)


@dataclass(frozen=True, slots=True)
class _Member:
    gang: str = ""
    minimum: int = 0
    notes: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class _Drawing:
    chance: Random
    kind: str
    queues: list[dict[str, Any]] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    nodes: dict[str, Node] = field(default_factory=dict)
    pods: list[str] = field(default_factory=list)
    number: int = 0
    alone: bool = False
    """Whether there are no gangs."""
    longest: int = 60
    actions: list[tuple[int, h.Action]] = field(default_factory=list)

    def history(self, seed: int) -> h.History:
        chance = self.chance
        self.longest = chance.choice([20, 60, 120])
        for number in range(chance.choice([1, 1, 1, 2, 2, 3, 4, 6])):
            self.nodes[f"n{number}"] = self.node(f"n{number}")
        spec = self.policy()
        drivers = self.drivers()
        {"known": self.known}.get(self.kind, self.eventful)()
        self.actions.sort(key=lambda one: one[0])
        settings = {
            "batch": chance.choice([2, 256, 256]),
            "gang_timeout": chance.choice([60, 60, 20]),
            "reservation_delay": chance.choice([-1, -1, -1, 0, 30, 3600]),
        }
        if self.about("company") and chance.random() < 0.5:
            settings["evictions"] = chance.choice([1, 2, 4])
        grace = 0 if self.kind == "known" else chance.choice([0, 0, 1, 3, 30])
        found = h.History(
            self.kind, seed, tuple(self.nodes.values()), spec, settings, grace, drivers, tuple(self.actions),
            fresh=chance.choice([0, 0, 20]),
        )  # fmt: skip
        found = self.with_disks(found) if self.about("volumes") else found
        return self.with_rules(found) if self.about("neighbours") else found

    def with_rules(self, before: h.History) -> h.History:
        """The history with racks, gangs that want to be within one place, and pods that have rules about other pods:
        drawn last, as volumes are."""
        chance = self.chance
        rules: dict[str, Any] = {}

        def of_work(one: Pod) -> Pod:
            work = one.metadata.labels.get(names.GANG) or one.metadata.name
            if one.spec.scheduler_name == _OTHERS:
                return one
            if work not in rules:
                rules[work] = self.some_rules(gang=bool(one.metadata.labels.get(names.GANG)))
            labels, notes, spec = rules[work]
            metadata = replace(
                one.metadata, labels=one.metadata.labels | labels, annotations=one.metadata.annotations | notes
            )
            return with_spec(replace(one, metadata=metadata), **spec)

        def racked(one: Node) -> Node:
            labels = {"topology.kubernetes.io/rack": chance.choice(["r", "s"])} if chance.random() < 0.9 else {}
            return replace(one, metadata=replace(one.metadata, labels=labels | one.metadata.labels))

        actions = list[tuple[int, h.Action]]()
        for second, action in before.actions:
            one = action
            if isinstance(one, h.Submit):
                one = dataclasses.replace(one, pods=tuple(map(of_work, one.pods)))
            elif isinstance(one, h.PutNode):
                one = h.PutNode(racked(one.node))
            actions.append((second, one))
        return dataclasses.replace(before, nodes=tuple(map(racked, before.nodes)), actions=tuple(actions))

    def some_rules(self, *, gang: bool) -> tuple[dict[str, str], dict[str, str], dict[str, Any]]:
        """(labels, annotations, fields of the spec) of all pods of some work."""
        chance, app = self.chance, self.chance.choice(_APPS)
        notes = dict[str, str]()
        if gang and chance.random() < 0.4:
            notes[names.TOPOLOGY_REQUIRED] = chance.choice(["rack", "zone", "host"])
        elif gang and chance.random() < 0.3:
            notes[names.TOPOLOGY_PREFERRED] = chance.choice(["rack", "host"])
        place, other = chance.choice(_PLACES), chance.choice([app, app, *_APPS])
        term = PodAffinity((PodAffinityTerm(place, LabelSelector({"app": other})),))
        spread = TopologySpreadConstraint(chance.choice([1, 2]), place, "DoNotSchedule", LabelSelector({"app": app}))
        drawn = chance.random()
        spec: dict[str, Any] = {}
        if drawn < 0.2:
            spec = {"affinity": Affinity(pod_anti_affinity=term)}
        elif drawn < 0.35:
            spec = {"affinity": Affinity(pod_affinity=term)}
        elif drawn < 0.5:
            spec = {"topology_spread_constraints": (spread,)}
        return {"app": app}, notes, spec

    def with_disks(self, before: h.History) -> h.History:
        """The history with local volumes, some for pods that had none, and bounds to what nodes can attach: drawn last,
        so that the rest of a seed is what it was before there were any."""
        chance, actions = self.chance, list[tuple[int, h.Action]]()
        disks, attaches = list[tuple[str, str]](), list[tuple[str, int]]()
        for name in self.nodes:
            disks += [(name, chance.choice(["10Gi", "100Gi", "100Gi"])) for _ in range(chance.choice([0, 1, 1, 2, 4]))]
            if chance.random() < 0.3:
                attaches.append((name, chance.choice([1, 2, 4])))
        for second, action in before.actions:
            one = action
            if isinstance(one, h.Submit) and not one.claim and one.pods[0].spec.scheduler_name != _OTHERS:
                size = chance.choice(["", "5Gi", "5Gi", "50Gi"])
                if size:
                    one = dataclasses.replace(one, pods=tuple(map(with_claim, one.pods)), claim="local", size=size)
            actions.append((second, one))
        for _ in range(chance.randint(2, 5)):
            second = chance.randint(0, self.longest)
            pods, size = tuple(map(with_claim, self.some_pods(second))), chance.choice(["5Gi", "5Gi", "50Gi"])
            again = chance.choice([None, None, 0, 5])
            actions.append((second, h.Submit(pods, chance.choice([None, 10, 40]), again, claim="local", size=size)))
            if chance.random() < 0.4:
                actions.append((chance.randint(second, self.longest), h.Delete(pods[0].metadata.name)))
        actions.sort(key=lambda one: one[0])
        drivers = before.drivers | {"local": Driver(local=True)}
        return dataclasses.replace(
            before, drivers=drivers, actions=tuple(actions), disks=tuple(disks), attaches=tuple(attaches)
        )

    def about(self, *kinds: str) -> bool:
        return self.kind == "all" or self.kind in kinds

    # What is there

    def node(self, name: str) -> Node:
        chance = self.chance
        gpus = chance.choice([0, 1, 2, 4, 4, 8, 8])
        labels = {"zone": chance.choice(_ZONES), "topology.kubernetes.io/zone": chance.choice(_ZONES)}
        cpu = chance.choice([8, 16, 64, 64])
        return node(
            name, gpus or (8 if name == "n0" else 0), chance.choice(["A100", "A100", "T4"]), cpu=cpu, labels=labels
        )

    def drivers(self) -> dict[str, Driver]:
        if not self.about("volumes"):
            return {}
        seconds = self.chance.choice([1, 5, 30, 90])
        return {"disk": Driver(seconds), "picky": Driver(2, refusals=self.chance.choice([1, 3])), "never": Driver(None)}

    def policy(self) -> dict[str, Any] | None:
        """The spec of a policy: a tree of queues, classes, a fallback."""
        chance = self.chance
        if self.kind != "known" and chance.random() < 0.15:
            return None
        self.queues = self.some_queues()
        spec: dict[str, Any] = {
            "queues": self.queues,
            "fallbackStrategy": chance.choice(["best-effort", "best-effort", "preempt", "strict"]),
        }
        self.classes = chance.choice([[], [], ["gold", "tin"]])
        classes = (
            [{"name": "gold", "weight": 5}, {"name": "tin", "weight": 1}]
            if self.classes
            else [{"name": "any", "weight": 1}]
        )
        if self.classes and chance.random() < 0.4:
            classes[0]["nodeSelector"] = {"zone": "a"}
        spec["priorityClasses"] = classes
        spec["placement"] = {"strategy": chance.choice(["fragmentation", "pack", "spread"])}
        return spec

    def some_queues(self) -> list[dict[str, Any]]:
        chance, found = self.chance, list[dict[str, Any]]()
        promises, plain = chance.random() < 0.6, chance.random() < 0.4
        for number in range(chance.choice([1, 2, 2, 2, 3, 3])):
            one: dict[str, Any] = {"name": f"q{number}"}
            if not plain:
                one["weight"] = chance.randint(1, 3)
                if found and chance.random() < 0.35:
                    one["parent"] = chance.choice(found)["name"]
                if chance.random() < 0.25:
                    one["limit"] = {"gpu": str(chance.randint(1, 6))}
                if chance.random() < 0.15:
                    one["reclaimable"] = False
                one["minRuntime"] = chance.choice(["0s", "0s", "5s"])
            if promises and chance.random() < 0.7:
                one["guarantee"] = {"gpu": str(chance.randint(1, 5))}
                if chance.random() < 0.4:
                    one["guarantee"]["cpu"] = str(chance.randint(2, 16))
                if "limit" in one:
                    one["limit"]["gpu"] = str(max(int(one["limit"]["gpu"]), int(one["guarantee"]["gpu"])))
            found.append(one)
        return found

    # Pods

    def some_pods(self, second: int) -> tuple[Pod, ...]:
        """One pod, or the members of a gang."""
        chance = self.chance
        self.number += 1
        size = chance.choice(
            [{"whole": 1}, {"whole": 1}, {"whole": 2}, {"whole": 4}, {"gpu": 50}, {"gpu": 30}, {"gpu": 70}, {}, {}]
        )
        options: dict[str, Any] = {
            "queue": chance.choice(self.queues)["name"] if self.queues else "",
            "klass": chance.choice(["", *self.classes]),
            "priority": chance.choice([0, 0, 0, 0, 5, 9]),
            "cpu": chance.choice([1, 1, 2, 4, 6]),
            "age": chance.randint(0, 50) - second,
        }
        if chance.random() < 0.08:
            options["selector"] = {"zone": chance.choice(_ZONES)}
        notes = {names.ESTIMATED_DURATION: chance.choice(["20s", "5m"])} if chance.random() < 0.15 else {}
        together = not self.alone and chance.random() < 0.25 and len(self.pods) + 4 < _MOST_PODS
        members = self.members() if together else [_Member()]
        found = []
        for index, member in enumerate(members):
            name = f"p{self.number}" + (f"-{index}" if together else "")
            uid = f"{name}.{second}"
            gang = {"gang": member.gang, "gang_min": member.minimum, "annotations": notes | member.notes}
            one = pod(name, uid=uid, **gang, **options, **size)
            labels = one.metadata.labels | member.labels
            found.append(replace(one, metadata=replace(one.metadata, labels=labels)))
        if chance.random() < 0.1:
            found = [with_spec(one, preemption_policy="Never") for one in found]
        self.pods += [one.metadata.name for one in found]
        return tuple(found)

    def members(self) -> list[_Member]:
        """The members of a gang: rigid, elastic or with roles, all of one size."""
        chance, gang = self.chance, f"g{self.number}"
        count = chance.choice([2, 2, 3, 4])
        match chance.choice(["rigid", "rigid", "elastic", "roles"]):
            case "elastic":
                return [_Member(gang, max(1, count - 1))] * count
            case "roles":
                least = {names.GANG_ROLE_MIN: f"leader=1,worker={chance.randint(1, count - 1)}"}
                roles = ["leader"] + ["worker"] * (count - 1)
                return [_Member(gang, 0, least, {names.ROLE: role}) for role in roles]
            case _:
                return [_Member(gang, count)] * count

    # What happens

    def known(self) -> None:
        """All pods are known from the beginning, and nothing else happens."""
        self.alone = self.chance.random() < 0.5
        while len(self.pods) < self.chance.choice([6, 10, 16, 16]):
            self.actions.append((0, h.Submit(self.some_pods(0))))

    def eventful(self) -> None:
        chance = self.chance
        begin = chance.choice([0, 3, 8])
        wanted = chance.randint(5, _MOST_PODS)
        while len(self.pods) < wanted:
            second = 0 if len(self.pods) < begin else chance.randint(0, self.longest)
            self.submit(second)
        for _ in range(chance.randint(0, 6)):
            self.at(self.ending())
        if self.about("refusals"):
            self.often(self.refusal, 3)
        if self.about("watches"):
            self.often(self.gap, 4)
        if self.about("restarts"):
            self.often(self.restart, 3)
        if self.about("nodes"):
            self.often(self.node_event, 5)
        if self.about("policies"):
            self.often(lambda: h.SetPolicy(self.policy()), 2)
        if self.about("company"):
            for number, name in enumerate(self.nodes):
                self.daemon(f"d{number}", name)
            self.often(self.resize, 4)
            self.often(self.taint, 6)

    def often(self, make: Any, most: int) -> None:
        for _ in range(self.chance.randint(1, most)):
            self.at(make())

    def at(self, *actions: h.Action) -> None:
        self.actions += [(self.chance.randint(0, self.longest), action) for action in actions]

    def submit(self, second: int) -> None:
        chance = self.chance
        if self.about("nodes", "watches", "refusals") and chance.random() < 0.08:
            self.foreign(second)
            return
        duration = chance.choice([None, None, None, 10, 40])
        again = chance.choice([None, None, 0, 1, 5])
        claim = chance.choice(["", "disk", "disk", "picky", "never"]) if self.about("volumes") else ""
        pods = self.some_pods(second)
        if claim:
            pods = tuple(with_claim(one) for one in pods)
        self.actions.append((second, h.Submit(pods, duration, again, chance.random() < 0.5, claim)))

    def foreign(self, second: int) -> None:
        (one, *_) = self.some_pods(second)
        one = with_spec(one, scheduler_name=_OTHERS)
        self.actions.append((second, h.Submit((one,))))
        bound = h.BindElsewhere(one.metadata.name, self.chance.choice(list(self.nodes)))
        self.actions.append((second + self.chance.randint(0, 9), bound))

    def daemon(self, name: str, where: str) -> None:
        """A pod of a DaemonSet, as its controller makes them, on its node from the beginning or from some time on."""
        second = self.chance.choice([0, 0, self.chance.randint(0, self.longest)])
        one = with_spec(pod(name, uid=f"{name}.{second}", cpu=1), scheduler_name=_OTHERS)
        owners = (OwnerReference("DaemonSet", "daemon", "uid-daemon"),)
        one = replace(one, metadata=replace(one.metadata, owner_references=owners))
        self.actions += [(second, h.Submit((one,))), (second, h.BindElsewhere(name, where))]

    def resize(self) -> h.Action:
        """Upwards only where the scheduler sees it at once: what it has sent before counts on what was free then."""
        return h.Resize(
            self.chance.choice(self.pods), self.chance.choice([1, 1, 2, 8] if self.kind == "company" else [1])
        )

    def taint(self) -> h.Action:
        """What an autoscaler writes on a node, with the time as its value, or takes away again."""
        chance, name = self.chance, self.chance.choice(list(self.nodes))
        self.number += 1
        marks = [
            (),
            (Taint("DeletionCandidateOfClusterAutoscaler", "PreferNoSchedule", str(START + self.number)),),
            (Taint("ToBeDeletedByClusterAutoscaler", "NoSchedule", str(START + self.number)),),
        ]
        return h.PutNode(changed(self.nodes[name], taints=chance.choice(marks)))

    def ending(self) -> h.Action:
        chance, name = self.chance, self.chance.choice(self.pods)
        if chance.random() < 0.5:
            return h.Delete(name)
        return h.End(name, chance.choice(["Succeeded", "Failed"]), chance.choice([0, 0, 5, 1000]))

    def refusal(self) -> h.Action:
        chance = self.chance
        if chance.random() < 0.3:
            answers = ["conflict", "gone", "refused", "lost", "unanswered"]
            return h.Accidents(tuple(chance.choice(answers) for _ in range(chance.randint(1, 6))))
        what = chance.choice(["bindings", "bindings", "evictions", "reports"])
        some = tuple(sorted(set(chance.choices(self.pods, k=chance.randint(1, 3)))))
        return h.Refuse(what, some, chance.choice([5, 60, 1 << 40]))

    def gap(self) -> h.Action:
        chance = self.chance
        kinds = chance.choice([(Kind.POD,), (Kind.POD,), (Kind.NODE,), (Kind.POLICY,), tuple(Kind)])
        if chance.random() < 0.4:
            return h.Lag(kinds, chance.choice([0, 1, 5, 20]))
        return h.Lose(kinds, chance.choice([1, 5, 30]))

    def restart(self) -> h.Action:
        return h.Restart(self.chance.randrange(1000), self.chance.choice([None, 0, 50, 100]))

    def node_event(self) -> h.Action:
        chance, name = self.chance, self.chance.choice([*self.nodes, "n9"])
        before = self.nodes.get(name) or self.node(name)
        match chance.choice(["remove", "replace", "cordon", "uncordon", "label", "fewer", "sick", "well"]):
            case "remove":
                return h.RemoveNode(name)
            case "replace":
                return h.PutNode(self.node(name))
            case "cordon":
                return h.PutNode(changed(before, unschedulable=True))
            case "uncordon":
                return h.PutNode(changed(before, unschedulable=False))
            case "label":
                return h.PutNode(relabelled(before, chance.choice(_ZONES)))
            case "fewer":
                return h.PutNode(with_gpus(before, chance.choice([0, 1, 2])))
            case "sick":
                count = gpus_of(before)
                return h.Inventories(name, count, tuple(sorted(chance.sample(range(count), min(count, 1)))))
            case _:
                return h.Inventories(name, gpus_of(before))


def with_claim(one: Pod) -> Pod:
    """The pod with a volume of its own."""
    return with_spec(one, volumes=(PodVolume("data", ClaimReference(f"data-{one.metadata.name}")),))


def changed(before: Node, **spec: Any) -> Node:
    """The node with other fields in its spec."""
    return replace(before, spec=replace(before.spec, **spec))


def relabelled(before: Node, zone: str) -> Node:
    """The node in another zone."""
    return replace(before, metadata=replace(before.metadata, labels={**before.metadata.labels, "zone": zone}))


def gpus_of(before: Node) -> int:
    """How many GPUs a node offers."""
    return int(before.status.allocatable.get(names.GPU_RESOURCE, 0))


def with_gpus(before: Node, count: int) -> Node:
    """The node with fewer GPUs."""
    count = min(count, gpus_of(before))
    offers = {names.GPU_RESOURCE: count, names.FRACTION_RESOURCE: 100 * count} if count else {}
    kept = {
        key: value
        for key, value in before.status.allocatable.items()
        if key not in (names.GPU_RESOURCE, names.FRACTION_RESOURCE)
    }
    return replace(before, status=replace(before.status, allocatable=kept | offers))


def pod_names(actions: Iterable[tuple[int, h.Action]]) -> list[str]:
    """Names of all pods that are submitted."""
    return [one.metadata.name for _, action in actions if isinstance(action, h.Submit) for one in action.pods]
