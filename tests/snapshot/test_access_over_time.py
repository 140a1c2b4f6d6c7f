"""Policies, labels of namespaces and pods, and bindings change in any order: queues are charged what a scheduler that
has just started would charge them, whatever it hears first."""

import random
from collections.abc import Callable

import msgspec
import pytest
from tests.budget import seeds
from tests.worlds import World, bound, cluster, placed, pod, policy

from tangram.api import names
from tangram.api.objects import Pod
from tangram.api.policy import HybridPolicy
from tangram.scheduler.cycle import Cycle
from tangram.settings import SchedulerSettings

NAMESPACES = ("n1", "n2", "n3")
SELECTORS = (
    {},
    {"namespaceSelector": {"matchLabels": {"team": "a"}}},
    {"namespaceSelector": {"matchLabels": {"team": "b"}}},
    {"namespaceSelector": {"matchExpressions": [{"key": "x", "operator": "DoesNotExist"}]}},
    {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "n1"}}},
)
QUEUES = ("", "default", "q0", "q1", "q2", "nowhere")
STEPS = 14


class Life:
    """A pool in which anything may change at any time."""

    def __init__(self, seed: int) -> None:
        self.chance, self.made = random.Random(seed), 0
        self.world = World(cluster("2x4xA100"), policy=self._policy())

    def go_on(self) -> None:
        """Let one thing happen."""
        acts: tuple[Callable[[], None], ...] = (
            self._label_a_namespace, self._change_the_policy, self._create, self._create, self._relabel, self._delete,
            self._bind_while_things_change, self._bind_while_things_change,
        )  # fmt: skip
        self.chance.choice(acts)()

    def charged(self, cycle: Cycle) -> dict[str, tuple[list[int], int]]:
        """By queue and class: amounts, and pods."""
        snapshot = cycle.builder.snapshot(self.world.now)
        queues, found = snapshot.queues, {}
        for row, name in enumerate(queues.names):
            if queues.is_leaf[row] and (queues.usage[row].any() or queues.pods[row]):
                klass = int(name.rpartition("/")[2])
                key = f"{queues.names[queues.parent[row]]} {snapshot.classes.names[klass] if klass >= 0 else '-'}"
                found[key] = (queues.usage[row].tolist(), int(queues.pods[row]))
        return found

    def fresh(self) -> Cycle:
        """A scheduler that hears of all that is there in any order."""
        world, cycle = self.world, Cycle(SchedulerSettings(debug=True))
        heard: list[Callable[[], object]] = [lambda: cycle.builder.set_policy(world.policy)] if world.policy else []
        heard += [
            lambda name=name, labels=labels: cycle.builder.set_namespace(name, labels)
            for name, labels in world.namespaces.items()
        ]
        heard += [lambda one=one: cycle.builder.put_node(one) for one in world.nodes]
        heard += [lambda one=one: cycle.observe_pod(None, one) for one in world.live.values()]
        self.chance.shuffle(heard)
        for hear in heard:
            hear()
        return cycle

    def _policy(self) -> HybridPolicy | None:
        if self.chance.random() < 0.1:
            return None
        queues: list[dict] = []
        for number in range(self.chance.randint(1, 4)):
            queue = {"name": "default" if number == 3 else f"q{number}", **self.chance.choice(SELECTORS)}
            if queues and self.chance.random() < 0.5:
                queue["parent"] = self.chance.choice(queues)["name"]
            if self.chance.random() < 0.4:
                queue["limit"] = {"gpu": str(self.chance.randint(1, 6))}
            if self.chance.random() < 0.2:
                queue["hold"] = "Hold"
            queues.append(queue)
        classes = [{"name": f"c{one}", **self.chance.choice(SELECTORS)} for one in range(self.chance.randint(0, 3))]
        return policy(*classes, queues=queues)

    def _label_a_namespace(self) -> None:
        name, labels = self.chance.choice(NAMESPACES), dict[str, str]()
        if self.chance.random() < 0.5:
            labels["team"] = self.chance.choice("ab")
        if self.chance.random() < 0.2:
            labels["x"] = "1"
        if self.chance.random() < 0.4:
            labels[names.QUEUE] = self.chance.choice(QUEUES)
        self.world.namespaces[name] = labels
        self.world.cycle.builder.set_namespace(name, labels)

    def _change_the_policy(self) -> None:
        self.world.policy = self._policy()
        self.world.cycle.builder.set_policy(self.world.policy)

    def _create(self) -> None:
        self.made += 1
        foreign = self.chance.random() < 0.3
        one = pod(
            f"p{self.made}",
            whole=self.chance.randint(0, 2),
            queue=self.chance.choice(QUEUES),
            klass=self.chance.choice(("", "c0", "c1", "typo")),
            scheduler="other" if foreign else names.SCHEDULER_NAME,
        )
        one = msgspec.structs.replace(
            one, metadata=msgspec.structs.replace(one.metadata, namespace=self.chance.choice(NAMESPACES))
        )
        self.world.add(bound(one, self.chance.choice(("n0", "n1")), "{}") if foreign else one)

    def _some_pod(self) -> Pod | None:
        known = sorted(self.world.live)
        return self.world.live[self.chance.choice(known)] if known else None

    def _relabel(self, one: Pod | None = None) -> None:
        one = one or self._some_pod()
        if one is not None:
            labels = one.metadata.labels | {names.QUEUE: self.chance.choice(QUEUES)}
            self.world.add(msgspec.structs.replace(one, metadata=msgspec.structs.replace(one.metadata, labels=labels)))

    def _delete(self) -> None:
        one = self._some_pod()
        if one is not None:
            self.world.delete(one.metadata.name)

    def _bind_while_things_change(self) -> None:
        world = self.world
        world.now += 1
        plan = world.cycle.decide(world.now)
        for place in plan.place:
            if self.chance.random() < 0.5:
                self._label_a_namespace()
            if self.chance.random() < 0.5:
                self._relabel(world.live[place.pod.uid])
            if self.chance.random() < 0.2:
                self._change_the_policy()
        for place in plan.place:
            held = self.chance.random() < 0.85
            world.cycle.place_ended(place, held=held)
            if held:
                world.add(placed(world.live[place.pod.uid], place, world.now))
        world._let_go(plan)


@pytest.mark.parametrize("seed", seeds(60))
def test_queues_are_charged_as_a_scheduler_that_has_just_started_charges_them(seed: int) -> None:
    life = Life(seed)
    for _ in range(STEPS):
        life.go_on()
        if not life.world.cycle.builder.claims.live():
            assert life.charged(life.world.cycle) == life.charged(life.fresh())
