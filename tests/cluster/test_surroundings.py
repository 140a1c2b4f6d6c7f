"""The scheduler and what is around pods, on a real API server with its volume controller: claims and namespaces."""

import asyncio
import contextlib

import msgspec
import pytest
from tests.cluster.fake import eventually

from tangram.cluster import objects, paths
from tangram.cluster.events import Recorder
from tangram.scheduler.cycle import Cycle
from tangram.scheduler.live import LiveScheduler
from tangram.settings import SchedulerSettings
from tangram.snapshot.requests.provisioning import SELECTED_NODE

NAME = "around"
ZONES = ("a", "b")


@pytest.fixture
async def live(real):
    """A scheduler over two nodes, one in each zone."""
    for zone in ZONES:
        labels = {"around/zone": zone, "kubernetes.io/hostname": f"around-{zone}"}
        amounts = {"cpu": "8", "memory": "8Gi", "pods": "20"}
        node = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": f"around-{zone}", "labels": labels},
            "status": {"allocatable": amounts, "capacity": amounts},
        }
        assert (await objects.create(real, node)).done
    async with Recorder(real) as recorder:
        scheduler = LiveScheduler(real, Cycle(SchedulerSettings(scheduler_name=NAME)), recorder)
        running = asyncio.create_task(scheduler.run())
        await eventually(lambda: scheduler.synced and scheduler.cycle.builder.volumes.started, 30)
        yield scheduler
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError, BaseExceptionGroup):
            await running
    for zone in ZONES:
        await objects.delete(real, paths.NODES.path(f"around-{zone}"))


async def storage_class(real, mode: str, name: str, provisioner: str) -> None:
    made = {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": name},
        "provisioner": provisioner,
        "volumeBindingMode": mode,
    }
    await real.request("POST", paths.STORAGE_CLASSES.collection(), body=msgspec.json.encode(made))


async def volume(real, name: str, zone: str, **spec) -> None:
    """A volume that only one zone can reach."""
    clause = {"key": "around/zone", "operator": "In", "values": [zone]}
    made = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            "capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": name,
            "local": {"path": "/nowhere"},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [clause]}]}},
            **spec,
        },
    }
    await real.request("POST", paths.PERSISTENT_VOLUMES.collection(), body=msgspec.json.encode(made))


async def claim(real, namespace: str, name: str) -> None:
    made = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": name,
            "resources": {"requests": {"storage": "1Gi"}},
        },
    }
    path = paths.PERSISTENT_VOLUME_CLAIMS.collection(namespace)
    await real.request("POST", path, body=msgspec.json.encode(made))


def pod(namespace: str, name: str, labels=None, **spec):
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": labels or {}},
        "spec": {
            "schedulerName": NAME,
            "nodeSelector": spec.pop("selector", {}),
            "containers": [{"name": "main", "image": "none"}],
            "affinity": {
                "nodeAffinity": {
                    "requiredDuringSchedulingIgnoredDuringExecution": {
                        "nodeSelectorTerms": [{"matchExpressions": [{"key": "around/zone", "operator": "Exists"}]}]
                    }
                }
            }
            | spec.pop("affinity", {}),
            **spec,
        },
    }


def using(name: str) -> list:
    return [{"name": "data", "persistentVolumeClaim": {"claimName": name}}]


async def create(real, manifest) -> None:
    made = await objects.create(real, manifest)
    assert made.done, made.message


def told(live, namespace: str, name: str) -> str:
    """The reason that the pod was last told for waiting."""
    found = live.pods.objects.get((namespace, name))
    conditions = found.status.conditions if found is not None else ()
    return next((one.message for one in conditions if one.type == "PodScheduled" and one.status == "False"), "")


def node_of(live, namespace: str, name: str) -> str:
    found = live.pods.objects.get((namespace, name))
    return found.spec.node_name if found is not None else ""


async def remove_storage(real, name: str) -> None:
    for resource in (paths.PERSISTENT_VOLUMES, paths.STORAGE_CLASSES):
        await objects.delete(real, resource.path(name))


async def test_a_pod_waits_for_its_claim_and_goes_where_the_volume_is(real, namespace, live) -> None:
    name = "around-now"
    await create(real, pod(namespace, "p", volumes=using(name)))
    await eventually(lambda: "does not exist" in told(live, namespace, "p"), 30)
    await storage_class(real, "Immediate", name, "kubernetes.io/no-provisioner")
    await volume(real, name, "b")
    await claim(real, namespace, name)
    await eventually(lambda: node_of(live, namespace, "p") == "around-b", 60)
    await remove_storage(real, name)


async def test_a_volume_that_waits_for_its_first_consumer_is_made_for_the_chosen_node(real, namespace, live) -> None:
    """The test plays the provisioner: it makes the volume where the scheduler asks for it."""
    name = "around-late"
    await storage_class(real, "WaitForFirstConsumer", name, "example.com/by-the-test")
    await claim(real, namespace, name)
    await create(real, pod(namespace, "p", volumes=using(name)))
    known = live.surroundings.claims.objects

    def chosen() -> str:
        found = known.get((namespace, name))
        return found.metadata.annotations.get(SELECTED_NODE, "") if found is not None else ""

    await eventually(chosen, 30)
    await eventually(lambda: f"its place on {chosen()} is held" in told(live, namespace, "p"), 30)
    assert not node_of(live, namespace, "p")
    uid = known[namespace, name].metadata.uid
    kind = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": namespace, "name": name, "uid": uid}
    await volume(real, name, chosen().removeprefix("around-"), claimRef=kind)
    await eventually(lambda: node_of(live, namespace, "p") == chosen(), 60)
    await remove_storage(real, name)


async def test_a_local_disk_that_is_there_is_bound_to_the_claim_of_the_pod(real, namespace, live) -> None:
    """The scheduler lets the volume name the claim, Kubernetes' volume controller binds both."""
    name = "around-local"
    await storage_class(real, "WaitForFirstConsumer", name, "kubernetes.io/no-provisioner")
    await claim(real, namespace, name)
    await create(real, pod(namespace, "p", volumes=using(name)))
    await eventually(lambda: "no free volume suits it" in told(live, namespace, "p"), 30)
    await volume(real, name, "b")
    await eventually(lambda: node_of(live, namespace, "p") == "around-b", 60)
    bound = live.surroundings.volumes.objects["", name]
    assert (bound.spec.claim_ref.namespace, bound.spec.claim_ref.name) == (namespace, name)
    await create(real, pod(namespace, "q", volumes=using(name)))
    await eventually(lambda: node_of(live, namespace, "q") == "around-b", 30)
    await remove_storage(real, name)


async def test_namespaces_are_known_by_their_labels(real, namespace, live) -> None:
    """Anti-affinity to the pods of all namespaces of a team, which the namespace joins and leaves."""
    term = {
        "topologyKey": "kubernetes.io/hostname",
        "labelSelector": {"matchLabels": {"app": "x"}},
        "namespaceSelector": {"matchLabels": {"team": "around"}},
    }
    apart = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
    selector = {"around/zone": "a"}
    await objects.patch(real, paths.NAMESPACES.path(namespace), {"metadata": {"labels": {"team": "around"}}})
    await create(real, pod(namespace, "x", {"app": "x"}, selector=selector))
    await eventually(lambda: node_of(live, namespace, "x") == "around-a", 30)
    await create(real, pod(namespace, "p", selector=selector, affinity=apart))
    await eventually(lambda: "anti-affinity" in told(live, namespace, "p"), 30)
    await objects.patch(real, paths.NAMESPACES.path(namespace), {"metadata": {"labels": {"team": None}}})
    await eventually(lambda: node_of(live, namespace, "p") == "around-a", 30)
