"""Given GPUs that fail, then these pods have to leave, and not before their time."""

from msgspec.structs import replace
from tests.worlds import bound, pod

from tangram.api.objects import Metadata, Pod
from tangram.plan import Evict, PodName
from tangram.scheduler.policies import DeviceEntry, Inventory, InventoryStatus
from tangram.scheduler.rescue import AGAIN_SECONDS, CHECK_SECONDS, Rescue

AFTER = 120
BEGIN = 1000
OVERDUE = BEGIN + AFTER


def told(*health: str) -> Inventory:
    devices = tuple(DeviceEntry(f"GPU-{index}", index, one, "GPU is lost") for index, one in enumerate(health))
    return Inventory(Metadata("n0"), InventoryStatus(devices))


def tenant(name: str, *devices: str, node: str = "n0") -> Pod:
    return bound(pod(name, gpu=30), node, {"main": [(device, 30) for device in devices]})


def pod_with(one: Pod, **metadata: object) -> Pod:
    return replace(one, metadata=replace(one.metadata, **metadata))


PODS = [
    tenant("hit", "GPU-1"),
    tenant("beside", "GPU-0"),
    tenant("elsewhere", "GPU-1", node="n1"),
    pod("waiting", gpu=30),
]
WHOLE = told("Healthy", "Healthy")
BROKEN = told("Degraded", "Unhealthy")


def failed() -> Rescue:
    rescue = Rescue()
    rescue.observe("n0", BROKEN, BEGIN)
    return rescue


def due(rescue: Rescue, now: int, pods: list[Pod] = PODS) -> list[str]:
    return [evict.pod.name for evict in rescue.due(now, AFTER, pods)]


def test_who_is_on_a_gpu_that_failed_leaves_when_it_has_not_come_back() -> None:
    rescue = failed()
    assert due(rescue, OVERDUE - CHECK_SECONDS) == []
    [evict] = rescue.due(OVERDUE, AFTER, PODS)
    hit = PODS[0].metadata
    assert evict == Evict(
        PodName(hit.namespace, "hit", hit.uid), "n0", None, "GPU GPU-1 is unhealthy: GPU is lost", "", "GpuUnhealthy"
    )


def test_a_record_from_before_the_inventory_names_the_gpu_that_failed_by_its_place() -> None:
    [evict] = failed().due(OVERDUE, AFTER, [tenant("early", "1"), tenant("beside", "0")])
    assert (evict.pod.name, evict.reason) == ("early", "GPU GPU-1 is unhealthy: GPU is lost")


def test_a_gpu_that_comes_back_in_time_keeps_its_pods_and_begins_anew() -> None:
    rescue = failed()
    rescue.observe("n0", WHOLE, BEGIN + 60)
    assert due(rescue, OVERDUE) == []
    rescue.observe("n0", BROKEN, OVERDUE)
    assert due(rescue, OVERDUE + AFTER - 1) == []
    assert due(rescue, OVERDUE + AFTER + CHECK_SECONDS) == ["hit"]


def test_news_of_a_gpu_that_stays_broken_do_not_begin_anew() -> None:
    rescue = failed()
    rescue.observe("n0", told("Healthy", "Unhealthy"), BEGIN + 100)
    assert due(rescue, OVERDUE) == ["hit"]


def test_who_was_asked_to_leave_is_asked_again_after_a_while_only() -> None:
    rescue = failed()
    assert due(rescue, OVERDUE) == ["hit"]
    assert due(rescue, OVERDUE + CHECK_SECONDS) == []
    assert due(rescue, OVERDUE + AGAIN_SECONDS) == ["hit"]


def test_who_leaves_already_and_whose_record_cannot_be_read_is_left_alone() -> None:
    leaving = tenant("leaving", "GPU-1")
    leaving = pod_with(leaving, deletion_timestamp="2026-11-21T12:00:00Z")
    odd = tenant("odd", "GPU-1")
    odd = pod_with(odd, annotations={**odd.metadata.annotations, "scheduling.example.com/gpus": "{"})
    assert due(failed(), OVERDUE, [leaving, odd]) == []


def test_a_gpu_node_that_is_gone_is_nobodys_reason() -> None:
    rescue = failed()
    rescue.observe("n0", None, BEGIN + 1)
    assert due(rescue, OVERDUE) == []


def test_what_a_clock_far_ahead_has_noted_keeps_nobody_on_a_gpu_that_failed() -> None:
    ahead = BEGIN + 10 * 365 * 86_400
    rescue = Rescue()
    rescue.observe("n0", BROKEN, ahead)
    assert due(rescue, ahead + AFTER) == ["hit"]
    assert due(rescue, BEGIN) == []
    assert due(rescue, OVERDUE) == ["hit"]
