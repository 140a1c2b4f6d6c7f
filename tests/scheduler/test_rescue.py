"""Given GPUs that fail, then these pods have to leave, and not before their time."""

from msgspec.structs import replace
from tests.worlds import bound, pod

from tangram.api.objects import Metadata, Pod
from tangram.plan import Evict, PodName
from tangram.scheduler.policies import DeviceEntry, Inventory, InventoryStatus
from tangram.scheduler.rescue import AGAIN_SECONDS, CHECK_SECONDS, SILENT_SECONDS, Rescue
from tangram.units import rfc3339

AFTER = 120
BEGIN = 1000
OVERDUE = BEGIN + AFTER


EPOCH = 1_700_000_000
"""What time the API server has when the steady clock is at 0."""


def told(*health: str, since: int = BEGIN, beat: int = BEGIN) -> Inventory:
    """A GPUNode; its times in seconds of the steady clock."""
    devices = tuple(
        DeviceEntry(f"GPU-{index}", index, one, "GPU is lost", rfc3339(EPOCH + since))
        for index, one in enumerate(health)
    )
    return Inventory(Metadata("n0"), InventoryStatus(devices, rfc3339(EPOCH + beat)))


def show(rescue: Rescue, inventory: Inventory | None, now: int, server_now: int | None = None) -> None:
    rescue.observe("n0", inventory, now, EPOCH + now if server_now is None else server_now)


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
    show(rescue, BROKEN, BEGIN)
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
    show(rescue, WHOLE, BEGIN + 60)
    assert due(rescue, OVERDUE) == []
    show(rescue, BROKEN, OVERDUE)
    assert due(rescue, OVERDUE + AFTER - 1) == []
    assert due(rescue, OVERDUE + AFTER + CHECK_SECONDS) == ["hit"]


def test_news_of_a_gpu_that_stays_broken_do_not_begin_anew() -> None:
    rescue = failed()
    show(rescue, told("Healthy", "Unhealthy"), BEGIN + 100)
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
    show(rescue, None, BEGIN + 1)
    assert due(rescue, OVERDUE) == []


def test_a_failover_and_a_wall_clock_that_jumps_move_nothing() -> None:
    """Whoever has just started knows by the GPUNode how long it has been, and by the API server's clock."""
    late = Rescue()
    show(late, BROKEN, OVERDUE - 30)
    assert due(late, OVERDUE - CHECK_SECONDS) == []
    assert due(late, OVERDUE) == ["hit"]


def test_a_process_that_saw_it_happen_needs_no_time_that_others_write() -> None:
    rescue = Rescue()
    show(rescue, WHOLE, BEGIN)
    show(rescue, told("Degraded", "Unhealthy", since=-10_000), BEGIN + 1)  # the agent's clock has jumped
    assert due(rescue, OVERDUE - CHECK_SECONDS) == []
    show(rescue, told("Degraded", "Unhealthy", since=10_000), BEGIN + 2)
    assert due(rescue, OVERDUE + CHECK_SECONDS) == ["hit"]


def test_the_last_word_of_an_agent_that_is_silent_is_not_believed_for_ever() -> None:
    rescue = failed()
    assert due(rescue, BEGIN + SILENT_SECONDS + 1) == []
    show(rescue, told("Degraded", "Unhealthy", beat=BEGIN + SILENT_SECONDS), BEGIN + SILENT_SECONDS + 1)
    assert due(rescue, BEGIN + SILENT_SECONDS + 10) == ["hit"]
    fresh = Rescue()
    show(fresh, BROKEN, BEGIN + SILENT_SECONDS + 1)
    assert due(fresh, BEGIN + SILENT_SECONDS + 10) == []


def test_an_agent_that_writes_no_times_is_counted_from_what_was_seen() -> None:
    rescue, old = Rescue(), Inventory(Metadata("n0"), InventoryStatus((DeviceEntry("GPU-1", 0, "Unhealthy", "lost"),)))
    show(rescue, old, BEGIN)
    assert due(rescue, OVERDUE - CHECK_SECONDS) == []
    assert due(rescue, OVERDUE) == ["hit"]


def test_before_any_answer_of_the_api_server_nobody_is_evicted_early() -> None:
    rescue = Rescue()
    rescue.observe("n0", BROKEN, BEGIN + 500, None)
    assert due(rescue, BEGIN + 500 + AFTER - CHECK_SECONDS) == []
    assert due(rescue, BEGIN + 500 + AFTER) == ["hit"]
