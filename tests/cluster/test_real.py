"""The border against a real API server: what the double only claims, this one decides."""

import asyncio
import contextlib

import pytest
from tests.cluster.fake import eventually
from tests.waiting import eventually_async

from tangram import plan
from tangram.api import names
from tangram.api.objects import Pod
from tangram.cluster import objects, paths, writers
from tangram.cluster.outcome import Result
from tangram.cluster.watch import ListWatch, Options


def manifest(name, namespace, **metadata):
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, **metadata},
        "spec": {"schedulerName": "tangram", "containers": [{"name": "main", "image": "none"}]},
    }


async def create_pod(real, name, namespace, **metadata):
    created = await objects.create(real, manifest(name, namespace, **metadata))
    assert created.done, created.message
    return plan.PodName(namespace, name, created.object()["metadata"]["uid"])


async def read_pod(real, name) -> Pod:
    pod = await objects.get_as(real, paths.PODS, name.name, name.namespace, kind=Pod)
    assert pod is not None
    return pod


@contextlib.asynccontextmanager
async def following(client, namespace, **options):
    log: list[tuple[str, str, str]] = []

    def sink(change, old, new):
        thing = new or old
        log.append((change, thing.metadata.name, thing.metadata.uid) if thing else (change, "", ""))

    watch = ListWatch(client, paths.PODS.collection(namespace), Pod, sink, Options(**options))
    task = asyncio.create_task(watch.run())
    try:
        await asyncio.wait_for(watch.synced.wait(), 30)
        yield watch, log
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("stream_initial", [True, False], ids=["streamed", "listed"])
async def test_the_copy_follows_the_server(real, namespace, stream_initial):
    first = await create_pod(real, "first", namespace)
    await create_pod(real, "left-out", namespace, labels={"hidden": "yes"})
    options = {"label_selector": "hidden!=yes", "stream_initial": stream_initial, "page_size": 1}
    async with following(real, namespace, **options) as (watch, log):
        assert log == [("added", "first", first.uid), ("synced", "", "")]
        second = await create_pod(real, "second", namespace)
        await eventually(lambda: (namespace, "second") in watch.objects)
        ended = await objects.patch(
            real, paths.PODS.path("second", namespace), {"metadata": {"labels": {"hidden": "yes"}}}
        )
        assert ended.done
        await eventually(lambda: (namespace, "second") not in watch.objects)
        await objects.patch(real, paths.PODS.path("second", namespace), {"metadata": {"labels": {"hidden": None}}})
        await eventually(lambda: (namespace, "second") in watch.objects)
        assert [change for change, _, uid in log if uid == second.uid] == ["added", "deleted", "added"]
        assert (await objects.delete(real, paths.PODS.path("first", namespace), grace_seconds=0)).done
        again = await create_pod(real, "first", namespace)
        await eventually(lambda: log[-1] == ("added", "first", again.uid))
        assert ("deleted", "first", first.uid) in log


async def test_streams_cut_by_the_network_lose_nothing(real, namespace):
    """The streams are cut and resumed; nothing is heard twice and nothing is lost."""
    async with following(real, namespace) as (watch, log):
        for number in range(5):
            name = await create_pod(real, f"p{number}", namespace)
            await eventually(lambda name=name: (namespace, name.name) in watch.objects)
            assert real._streams is not None
            for connection in list(real._streams.connector._acquired):
                connection.transport.abort()
        await eventually(lambda: watch.reconnects >= 1)
    assert [entry[:2] for entry in log] == [("synced", ""), *(("added", f"p{number}") for number in range(5))]


async def test_binding_records_the_devices_in_the_same_transaction(real, namespace):
    name = await create_pod(real, "a", namespace)
    place = plan.Place(name, "some-node", (("main", (plan.Device("GPU-1", 0, 300),)),))
    async with following(real, namespace) as (watch, _):
        assert (await writers.bind(real, place)).done
        await eventually(lambda: watch.objects[namespace, "a"].spec.node_name == "some-node")
        # The first state that shows the node shows the devices too.
        assert watch.objects[namespace, "a"].metadata.annotations[names.GPUS] == writers.gpus_annotation(place)
    assert (await writers.bind(real, place)).done, "bound as decided already"
    other = plan.Place(name, "other-node", place.devices)
    ended = await writers.bind(real, other)
    assert ended.result is Result.CONFLICT
    assert "already assigned" in ended.message


async def test_binding_never_meets_a_pod_re_created_under_the_name(real, namespace):
    old = await create_pod(real, "a", namespace)
    assert (await objects.delete(real, paths.PODS.path("a", namespace), uid=old.uid, grace_seconds=0)).done
    assert (await writers.bind(real, plan.Place(old, "n"))).result is Result.GONE
    new = await create_pod(real, "a", namespace)
    ended = await writers.bind(real, plan.Place(old, "n"))
    assert ended.result is Result.CONFLICT
    assert old.uid in ended.message
    assert (await read_pod(real, new)).spec.node_name == ""


async def test_a_gated_pod_cannot_be_bound(real, namespace):
    gated = manifest("gated", namespace)
    gated["spec"]["schedulingGates"] = [{"name": "example.com/wait"}]
    created = await objects.create(real, gated)
    name = plan.PodName(namespace, "gated", created.object()["metadata"]["uid"])
    ended = await writers.bind(real, plan.Place(name, "n"))
    assert ended.result in (Result.REFUSED, Result.CONFLICT)
    assert "schedulingGates" in ended.message


async def run_pod(real, name):
    """Play the kubelet: the pod is running and ready."""
    assert (await writers.bind(real, plan.Place(name, "some-node"))).done
    status = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
    path = paths.PODS.path(name.name, name.namespace)
    assert (await writers.patch_status(real, path, {"status": status}, strategic=True)).done


async def test_fault_15_eviction_respects_a_budget(real, namespace):
    name = await create_pod(real, "guarded", namespace, labels={"app": "guarded"})
    await run_pod(real, name)
    budget = {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": "all", "namespace": namespace},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "guarded"}}},
    }
    assert (await objects.apply(real, budget)).done

    async def counted() -> bool:
        found = await objects.get(real, paths.POD_DISRUPTION_BUDGETS, "all", namespace)
        return bool(found) and found.get("status", {}).get("currentHealthy") == 1

    await eventually_async(counted, "the budget counts the pod")
    decision = plan.Evict(name, "some-node", name, "reclaim")
    ended = await writers.evict(real, decision)
    assert ended.result is Result.REFUSED
    assert "disruption budget" in ended.message
    stranger = plan.Evict(plan.PodName(namespace, "guarded", "another-uid"), "some-node", name, "reclaim")
    assert (await objects.delete(real, paths.POD_DISRUPTION_BUDGETS.path("all", namespace))).done

    async def gone() -> bool:
        return await objects.get(real, paths.POD_DISRUPTION_BUDGETS, "all", namespace) is None

    await eventually_async(gone, "the budget is gone")
    assert (await writers.evict(real, stranger)).result is Result.CONFLICT
    assert (await writers.evict(real, decision, grace_seconds=0)).done
    assert (await writers.evict(real, decision)).result is Result.GONE


async def test_why_a_pod_waits_stands_beside_the_conditions_of_others(real, namespace):
    name = await create_pod(real, "a", namespace)
    path = paths.PODS.path("a", namespace)
    theirs = {"status": {"conditions": [{"type": "example.com/theirs", "status": "True"}]}}
    assert (await writers.patch_status(real, path, theirs, strategic=True)).done
    hold = plan.Hold(name, plan.Reason.INSUFFICIENT_GPU, "no node has 2 free GPUs", nominated_node="node-1")
    assert (await writers.pod_unschedulable(real, hold, since="2026-01-02T03:04:05Z")).done
    pod = await read_pod(real, name)
    assert writers.says_already(pod, hold)
    again = plan.Hold(name, plan.Reason.QUEUE_LIMIT, "queue research is at its limit")
    assert not writers.says_already(pod, again)
    assert (await writers.pod_unschedulable(real, again)).done
    pod = await read_pod(real, name)
    conditions = {condition.type: condition for condition in pod.status.conditions}
    assert set(conditions) == {"example.com/theirs", "PodScheduled"}
    assert conditions["PodScheduled"].reason == "Unschedulable"
    assert conditions["PodScheduled"].message == "QueueLimit: queue research is at its limit"
    assert conditions["PodScheduled"].last_transition_time == "2026-01-02T03:04:05Z"
    assert pod.status.nominated_node_name == ""
    stranger = plan.Hold(plan.PodName(namespace, "a", "another-uid"), "X", "y")
    assert (await writers.pod_unschedulable(real, stranger)).result is Result.CONFLICT


async def test_any_object_can_be_created_applied_patched_listed_and_deleted(real, namespace):
    thing = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "c", "namespace": namespace},
        "data": {"a": "1"},
    }
    created = await objects.create(real, thing)
    assert created.done
    assert (await objects.create(real, thing)).result is Result.CONFLICT
    old = created.object()
    assert (await objects.patch(real, paths.CONFIG_MAPS.path("c", namespace), {"data": {"b": "2"}})).done
    assert (await objects.replace(real, old)).result is Result.CONFLICT
    assert (await objects.apply(real, thing | {"data": {"c": "3"}})).done
    addition = [{"op": "add", "path": "/data/d", "value": "4"}]
    assert (await objects.patch(real, paths.CONFIG_MAPS.path("c", namespace), addition)).done
    assert (await objects.apply(real, thing | {"data": {}})).done
    (found,) = await objects.list_objects(real, paths.CONFIG_MAPS, namespace, field_selector="metadata.name=c")
    assert found["data"] == {"a": "1", "b": "2", "d": "4"}, "only what we applied and no longer apply is gone"
    invalid = await objects.create(real, {**thing, "metadata": {"name": "No Such Name", "namespace": namespace}})
    assert invalid.result is Result.REFUSED
    assert "metadata.name" in invalid.message
    assert (await objects.delete(real, paths.CONFIG_MAPS.path("c", namespace), uid="x")).result is Result.CONFLICT
    assert (await objects.delete(real, paths.CONFIG_MAPS.path("c", namespace))).done
    assert (await objects.delete(real, paths.CONFIG_MAPS.path("c", namespace))).result is Result.GONE
    assert await objects.get(real, paths.CONFIG_MAPS, "c", namespace) is None
