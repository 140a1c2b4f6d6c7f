"""Who may use which queue and class, which queue a namespace's pods are in, and queues that start nothing."""

from typing import Any

import msgspec
import pytest
from tests.worlds import World, bound, cluster, container, gang, placed, pod, policy

from tangram.api.objects import Pod
from tangram.snapshot.requests import request

RESEARCH = {"matchLabels": {"team": "research"}}
QUEUES = [
    {"name": "shared"},
    {"name": "research", "guarantee": {"gpu": "4"}, "namespaceSelector": RESEARCH},
    {"name": "vision", "parent": "research"},
]


def inside(namespace: str, one: Pod) -> Pod:
    """The pod in another namespace."""
    return msgspec.structs.replace(one, metadata=msgspec.structs.replace(one.metadata, namespace=namespace))


def world(*pods: Pod, **spec: Any) -> World:
    there = World(cluster("1x4xA100"), policy=policy(queues=QUEUES, **spec))
    for name, labels in {"lab": {"team": "research"}, "web": {"team": "web"}}.items():
        set_labels(there, name, labels)
    there.add(*pods)
    return there


def set_labels(there: World, namespace: str, labels: dict[str, str]) -> None:
    there.namespaces[namespace] = labels
    there.cycle.builder.set_namespace(namespace, labels)


def sentence(there: World, name: str) -> str:
    """What a pod that waits is told by a scheduler that has just started."""
    there.start_again()
    [found] = [hold.message for hold in there.step().hold if hold.pod.name == name]
    return found


def test_a_queue_is_for_the_namespaces_that_it_selects() -> None:
    there = world(
        inside("web", pod("thief", whole=1, queue="research")), inside("lab", pod("own", whole=1, queue="research"))
    )
    assert list(there.settle().where) == ["own"]
    assert there.reason("thief") == "QueueNotAllowed"


def test_what_a_queue_requires_is_required_below_it_too() -> None:
    there = world(inside("web", pod("x", whole=1, queue="vision")))
    assert sentence(there, "x") == "namespace web is not selected by the namespaceSelector of queue research"


def test_nobody_is_evicted_by_the_guarantee_of_a_queue_that_a_namespace_may_not_use() -> None:
    low = bound(pod("low", whole=4, queue="shared"), "n0", {"main": [(str(one), 100) for one in range(4)]})
    there = world(low, inside("web", pod("thief", whole=1, queue="research", priority=9)))
    assert there.settle().evicted == []


def test_a_namespace_that_is_labelled_later_may_use_the_queue_then_and_no_longer_once_it_is_not() -> None:
    there = world(inside("web", pod("x", whole=1, queue="research")))
    there.settle()
    set_labels(there, "web", {"team": "research"})
    assert list(there.settle().where) == ["x"]
    there.add(inside("web", pod("y", whole=4, queue="research")))
    assert there.settle().reason("y") == "InsufficientGpu"
    set_labels(there, "web", {})
    there.settle()
    assert there.reason("y") == "QueueNotAllowed"
    assert list(there.where) == ["x"], "who runs is not sent away"


@pytest.mark.parametrize("queue", ["", "default"])
def test_a_label_of_a_namespace_names_the_queue_of_its_pods_that_name_none(queue: str) -> None:
    there = world()
    set_labels(there, "web", {"scheduling.example.com/queue": "shared"})
    there.add(inside("web", pod("x", whole=1, queue=queue)), inside("web", pod("y", whole=1, queue="default")))
    used = usage(there.settle())
    assert (used["shared"], used["default"]) == (2000, 0)
    there.start_again()
    assert usage(there) == used


def test_who_runs_is_counted_where_its_namespace_says_once_that_changes() -> None:
    there = world(inside("web", pod("x", whole=1)))
    assert usage(there.settle())["default"] == 1000
    set_labels(there, "web", {"scheduling.example.com/queue": "shared"})
    used = usage(there)
    assert (used["shared"], used["default"]) == (1000, 0)
    there.start_again()
    assert usage(there) == used


def test_the_queue_that_a_namespace_names_has_to_be_there_and_for_it() -> None:
    there = world()
    set_labels(there, "web", {"scheduling.example.com/queue": "nowhere"})
    set_labels(there, "lab", {"scheduling.example.com/queue": "research"})
    there.add(inside("web", pod("x", whole=1)), inside("lab", pod("y", whole=1)))
    assert there.settle().reason("x") == "QueueUnknown"
    assert there.reason("y") == "QueueNotAllowed", "the label team is gone"


GOLD = {"name": "gold", "weight": 9, "namespaceSelector": RESEARCH}
TIN = {"name": "tin", "weight": 1}


def test_a_class_is_for_the_namespaces_that_it_selects() -> None:
    there = World(cluster("1x4xA100"), policy=policy(GOLD, TIN))
    set_labels(there, "lab", {"team": "research"})
    there.add(inside("web", pod("thief", whole=1, klass="gold")), inside("lab", pod("own", whole=1, klass="gold")))
    assert list(there.settle().where) == ["own"]
    assert there.reason("thief") == "ClassNotAllowed"


def test_who_names_no_class_gets_the_first_that_it_may_be_of() -> None:
    there = World(cluster("1x4xA100"), policy=policy(GOLD, TIN))
    set_labels(there, "lab", {"team": "research"})
    there.add(inside("web", pod("x", whole=1)), inside("lab", pod("y", whole=1)))
    there.settle()
    assert classes(there) == {"x": "tin", "y": "gold"}
    there.start_again()
    assert classes(there) == {"x": "tin", "y": "gold"}
    set_labels(there, "lab", {})
    assert classes(there) == {"x": "tin", "y": "tin"}


def test_where_no_class_is_for_a_namespace_its_pods_wait() -> None:
    there = World(cluster("1x4xA100"), [inside("web", pod("x", whole=1))], policy=policy(GOLD))
    assert there.settle().reason("x") == "ClassNotAllowed"


def test_a_class_that_does_not_exist_is_told() -> None:
    there = World(cluster("1x4xA100"), [pod("x", whole=1, klass="typo")], policy=policy(TIN))
    assert sentence(there, "x") == "class 'typo' does not exist; allowed: tin"
    assert there.reason("x") == "ClassUnknown"


def test_a_queue_that_is_held_starts_nothing_and_neither_do_those_below_it() -> None:
    queues = [{"name": "a", "hold": "Hold"}, {"name": "b", "parent": "a"}, {"name": "c"}]
    runs = bound(pod("runs", whole=1, queue="a"), "n0", {"main": [("0", 100)]})
    there = World(cluster("1x4xA100"), [runs], policy=policy(queues=queues))
    there.add(pod("x", whole=1, queue="b"), pod("y", whole=1, queue="c"))
    assert sorted(there.settle().where) == ["runs", "y"]
    assert sentence(there, "x") == "queue a is held by the policy and starts no pods"
    there.cycle.builder.set_policy(policy(queues=[{"name": "a"}, {"name": "b", "parent": "a"}, {"name": "c"}]))
    assert sorted(there.settle().where) == ["runs", "x", "y"]


def test_who_may_not_start_is_pending_in_the_queue_of_its_namespace() -> None:
    there = World(cluster("1x4xA100"), policy=policy(queues=[{"name": "a", "hold": "Hold"}]))
    set_labels(there, "lab", {"scheduling.example.com/queue": "a"})
    there.add(pod("x", whole=1, queue="a"), inside("lab", pod("y", whole=1)), pod("z", whole=9))
    there.step()
    pending = dict(zip(there.figures().queues.names, there.figures().waiting.tolist(), strict=True))
    assert (pending["a"], pending["default"]) == (2, 1)


def test_a_pod_that_another_scheduler_has_bound_is_charged_to_no_queue_that_is_not_for_it() -> None:
    alien = bound(pod("alien", whole=4, queue="research", scheduler="default-scheduler"), "n0", "{}")
    there = world(inside("web", alien))
    assert usage(there)["research"] == 0
    set_labels(there, "web", {"team": "research"})
    assert usage(there)["research"] > 0
    there.start_again()
    assert usage(there)["research"] > 0


@pytest.mark.parametrize("selective", [True, False])
def test_who_runs_is_counted_elsewhere_once_its_queue_is_for_it_no_longer_or_again(*, selective: bool) -> None:
    def queues(selector: dict[str, Any]) -> Any:
        return policy(queues=[{"name": "shared", "limit": {"gpu": "2"}}, {"name": "research"} | selector])

    forms = [queues({"namespaceSelector": RESEARCH}), queues({})]
    there = World(cluster("1x8xA100"), policy=forms[selective])
    set_labels(there, "web", {"scheduling.example.com/queue": "shared"})
    there.add(inside("web", bound(pod("x", whole=2, queue="research"), "n0", {"main": [("0", 100), ("1", 100)]})))
    there.policy = forms[not selective]
    there.cycle.builder.set_policy(there.policy)
    used = usage(there)
    assert (used["shared"], used["research"]) == ((2000, 0) if selective else (0, 2000))
    there.start_again()
    assert usage(there) == used


def test_a_queue_of_a_namespace_that_does_not_exist_takes_nobody_out_of_the_limits() -> None:
    runs = bound(pod("x", whole=1, queue="research"), "n0", {"main": [("0", 100)]})
    there = world(inside("web", runs))
    set_labels(there, "web", {"scheduling.example.com/queue": "nowhere"})
    assert usage(there)["default"] == 1000


@pytest.mark.parametrize("queue", ["vision", "research"])
def test_a_label_that_is_written_while_the_binding_is_under_way_takes_nobody_out_of_its_own_limits(queue: str) -> None:
    there = World(cluster("1x4xA100"), policy=policy(queues=[*QUEUES[1:], {"name": "shared", "limit": {"gpu": "2"}}]))
    set_labels(there, "web", {"scheduling.example.com/queue": "shared"})
    before = inside("web", pod("x", whole=2))
    there.add(before)
    [place] = there.cycle.decide(there.now).place
    labels = before.metadata.labels | {"scheduling.example.com/queue": queue}
    after = msgspec.structs.replace(before, metadata=msgspec.structs.replace(before.metadata, labels=labels))
    there.cycle.observe_pod(before, after)
    assert usage(there)["shared"] == 2000, "while the binding is under way, too"
    there.cycle.place_ended(place, held=True)
    runs = there.live["x"] = placed(after, place, there.now)
    there.cycle.observe_pod(after, runs)
    used = usage(there)
    assert (used["shared"], used["research"]) == (2000, 0)
    there.start_again()
    assert usage(there) == used
    there.add(inside("web", pod("y", whole=1)))
    assert there.settle().reason("y") == "QueueLimit"


def test_of_a_namespace_that_is_not_known_yet_nothing_is_taken_for_granted() -> None:
    absent = {"namespaceSelector": {"matchExpressions": [{"key": "frozen", "operator": "DoesNotExist"}]}}
    there = World(cluster("1x4xA100"), policy=policy(queues=[{"name": "q"} | absent]))
    there.add(inside("new", pod("x", whole=1, queue="q")))
    assert there.settle().reason("x") == "QueueNotAllowed"
    set_labels(there, "new", {})
    assert list(there.settle().where) == ["x"]


def test_a_gang_that_lacks_a_member_by_a_hold_runs_on() -> None:
    made = enumerate(gang("g", 2, whole=1, queue="q"))
    members = [bound(one, "n0", {"main": [(str(index), 100)]}) for index, one in made]
    there = World(cluster("1x4xA100"), members, policy(queues=[{"name": "q", "hold": "Hold"}]))
    there.delete("g-1")
    there.add(pod("g-1", whole=1, queue="q", gang="g", gang_min=2, uid="again"))
    for _ in range(4):
        there.now += 100
        there.step()
    assert (there.evicted, list(there.where)) == ([], ["g-0"])


@pytest.mark.parametrize(("extra", "ends"), [({}, False), ({"queue": "nowhere"}, True), ({"klass": "typo"}, True)])
def test_a_member_that_never_could_be_started_is_no_reason_to_run_in_part(extra: dict[str, Any], ends: bool) -> None:
    """The queue is held, so that the third cannot be started. One that is misspelt is not what the gang lacks."""
    first, second, third = gang("g", 3, whole=1, queue="q")
    members = [bound(one, "n0", {"main": [(str(index), 100)]}) for index, one in enumerate((first, second))]
    queues = [{"name": "q", **({} if extra else {"hold": "Hold"})}]
    there = World(cluster("1x2xA100"), members, policy(queues=queues))
    there.add(pod("g-9", whole=1, gang="g", gang_min=3, **{"queue": "q", **extra}) if extra else third)
    for _ in range(4):
        there.now += 700
        there.step()
    assert sorted(one.pod.name for one in there.evicted) == (["g-0", "g-1"] if ends else [])


def usage(there: World) -> dict[str, int]:
    """Milli-GPUs by queue."""
    queues = there.cycle.builder.snapshot(there.now).queues
    column = queues.columns.index("gpu")
    return {name: int(queues.usage[row, column]) for row, name in enumerate(queues.names) if not queues.is_leaf[row]}


def classes(there: World) -> dict[str, str]:
    """The class of each pod that runs."""
    snapshot, rows = there.cycle.builder.snapshot(there.now), there.cycle.builder.pods.values()
    return {row.name.name: snapshot.classes.names[snapshot.shapes.priority_class[row.shape]] for row in rows}


def test_requests_are_read_once_for_equal_pods_where_classes_have_selectors(monkeypatch: pytest.MonkeyPatch) -> None:
    read = list[str]()
    amounts = request.pod_amounts

    def counted(one: Pod) -> dict[str, int]:
        read.append(one.metadata.name)
        return amounts(one)

    monkeypatch.setattr(request, "pod_amounts", counted)
    classes = [{"name": "gold", "namespaceSelector": RESEARCH}, {"name": "tin"}]
    there = world(*(inside("web", pod(f"p{number}", whole=1)) for number in range(100)), priorityClasses=classes)
    assert len(there.settle().where) == 4
    assert len(read) <= 4


@pytest.mark.parametrize("with_gpus", [False, True])
def test_whether_a_pod_wants_gpus_is_what_its_request_says(with_gpus: bool) -> None:
    ours = container(whole=1) if with_gpus else container(whole="0")
    for one in (pod("x", containers=[ours]), pod("x", containers=[container()], init=[ours])):
        assert request.wants_gpu(one) is request.read_request(one).wants_gpu is with_gpus
