"""Random histories: which objects there are, and what happens when. A seed is a history."""

import random
from dataclasses import dataclass
from typing import Any

from tests.controllers.builders import job_object, revision, role, service_object

KINDS = ("all", "calm", "lease", "nodes", "views")
"""What happens most: everything; only what others do to objects and views; lost Leases; dying nodes; late views."""
SECONDS = 400
FATAL = 3
"""The exit code for which a rule of every job says that the job has failed."""

_ALWAYS = ("edit", "suspend", "finish", "blind", "lose_lease")
_HAPPENINGS = {
    "calm": (*_ALWAYS, "restart", "slow", "break_watches", "recreate"),
    "lease": (*_ALWAYS, "lose_lease", "lose_lease", "restart", "restart", "fail", "evict", "slow", "lose_requests"),
    "nodes": (*_ALWAYS, "node_dies", "node_dies", "node_returns", "node_removed", "evict", "fail"),
    "views": (*_ALWAYS, "blind", "blind", "break_watches", "fail", "evict", "vanish", "recreate", "lose_requests"),
    "all": (
        *_ALWAYS, "fail", "fail", "crash", "evict", "vanish", "node_dies", "node_returns", "node_removed", "quota",
        "restart", "slow", "lose_requests", "break_watches", "recreate", "lose_status", "no_room",
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Happening:
    """Something that somebody does; ``number`` says to what, and how."""

    second: float
    what: str
    number: int


@dataclass(frozen=True, slots=True)
class History:
    """A history before it is lived through."""

    seed: int
    kind: str
    objects: tuple[dict[str, Any], ...]
    happenings: tuple[Happening, ...]
    ends: bool
    """Whether the jobs end in peace; else they go on."""


def draw(seed: int, only: str = "") -> History:
    """The history of a seed; of one kind where ``only`` names it."""
    chance = random.Random(f"history {seed} {only}")
    kind = only or KINDS[seed % len(KINDS)]
    objects = tuple(_object(chance, number) for number in range(chance.randint(1, 3)))
    what = _HAPPENINGS[kind]
    happenings = [
        Happening(round(chance.uniform(0, SECONDS), 2), chance.choice(what), chance.randrange(1000))
        for _ in range(chance.randint(5, 30))
    ]
    # What is bad alone is worse together: some things happen shortly after another one.
    happenings += [
        Happening(round(one.second + chance.expovariate(1.0), 2), chance.choice(what), chance.randrange(1000))
        for one in happenings
        if chance.random() < 0.5
    ]
    return History(seed, kind, objects, tuple(sorted(happenings, key=lambda one: one.second)), chance.random() < 0.5)


def _object(chance: random.Random, number: int) -> dict[str, Any]:
    name = f"one-{number}"
    if chance.random() < 0.5:
        return service_object(*_revisions(chance), name=name, replicas=chance.randint(0, 4), **_service_fields(chance))
    run_policy: dict[str, Any] = {"backoffLimit": chance.randint(0, 4)}
    if chance.random() < 0.2:
        run_policy["cleanPodPolicy"] = chance.choice(("None", "All"))
    rules = [{"codes": [2], "action": "RestartUncounted"}, {"codes": [FATAL], "action": "Fail"}]
    more: dict[str, Any] = {"runPolicy": run_policy, "exitCodeRules": rules}
    if chance.random() < 0.3:
        roles = (role("master"), role("worker", 1, gpus={"count": 1}))
        more["elastic"] = {"role": "worker", "replicas": 2, "minReplicas": 1, "maxReplicas": 4}
    else:
        roles = (role("worker", chance.randint(1, 4), gpus={"count": 1}),)
    return job_object(*roles, name=name, **more)


def _revisions(chance: random.Random) -> list[dict[str, Any]]:
    if chance.random() < 0.7:
        return [revision()]
    return [revision("v1", weight=75), revision("v2", image="registry.test/serve:2", weight=25)]


def _service_fields(chance: random.Random) -> dict[str, Any]:
    if chance.random() < 0.7:
        return {}
    surge = chance.randint(0, 2)
    return {"strategy": {"maxSurge": surge, "maxUnavailable": chance.randint(0 if surge else 1, 1)}}
