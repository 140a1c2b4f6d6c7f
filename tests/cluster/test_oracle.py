"""tangram's hard filters against the real kube-scheduler: for the same cluster and pod, the same set of nodes.

Random worlds are built pod by pod. For each pod kube-scheduler tells all nodes that it finds feasible; tangram has to
find the same ones. TANGRAM_ORACLE_PODS and TANGRAM_ORACLE_SEED make the test longer or another one.
"""

import asyncio
import contextlib
import itertools
import json
import os
from collections import Counter

import msgspec
import pytest
from tests.cluster.oracle import NAME, Oracle, running_oracle
from tests.cluster.oracle_worlds import CLASSES, HEAVY, LATE, LATE_CLASSES, LATE_NOWHERE, LATE_THERE, TEAMS, Maker
from tests.waiting import eventually_async

from tangram.api.objects import Node, Pod, is_resized
from tangram.api.storage import CSINode, PersistentVolume, PersistentVolumeClaim, StorageClass
from tangram.cluster import objects, paths
from tangram.cluster.rest import Client
from tangram.cluster.watch import ListWatch
from tangram.decide import codes
from tangram.sandbox.binaries import build, missing_programs
from tangram.scheduler.cycle import Cycle
from tangram.settings import SchedulerSettings
from tangram.snapshot import legal

PODS = int(os.environ.get("TANGRAM_ORACLE_PODS", "300"))
SEED = int(os.environ.get("TANGRAM_ORACLE_SEED", "1"))
PODS_PER_WORLD = 50
WANTED = {
    "NodeUnschedulable",
    "TaintNotTolerated",
    "NodeSelectorMismatch",
    "HostPortTaken",
    "TopologySpread",
    "PodAffinity",
    "PodAntiAffinity",
    "InsufficientCpu",
    "InsufficientMemory",
    "InsufficientPods",
    "InsufficientResource",
    "VolumeMismatch",
    "VolumeInUse",
    "VolumeNotReady",
}
"""Reasons that must have decided something, or the worlds are too tame to prove anything."""


@pytest.fixture
async def oracle(real, sandbox, tmp_path):
    if missing_programs(("kube-scheduler",)):
        pytest.skip("kube-scheduler is not built: run `tangram sandbox build --with kube-scheduler` once")
    program = build(("kube-scheduler",))["kube-scheduler"]
    await prepare(real)
    async with running_oracle(program, sandbox.kubeconfig, tmp_path) as started:
        watch = ListWatch(real, paths.PODS.collection(), Pod, started.seen)
        watching = asyncio.create_task(watch.run())
        await asyncio.wait_for(watch.synced.wait(), 30)
        yield started
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching
    for name in TEAMS:
        await objects.delete(real, paths.NAMESPACES.path(name))
    await real.request("DELETE", f"/apis/node.k8s.io/v1/runtimeclasses/{HEAVY}")
    for name in LATE_CLASSES:
        await objects.delete(real, paths.STORAGE_CLASSES.path(name))


async def prepare(real: Client) -> None:
    """Namespaces that differ in labels, and a runtime with an overhead."""
    accounts = paths.Resource("", "v1", "serviceaccounts", "ServiceAccount")
    for name, team in TEAMS.items():
        labels = {"team": team} if team else {}
        made = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
        assert (await objects.create(real, made)).done
    for name in TEAMS:
        await eventually_async(lambda name=name: objects.get(real, accounts, "default", name), "its account is there")
    runtime = {
        "apiVersion": "node.k8s.io/v1",
        "kind": "RuntimeClass",
        "metadata": {"name": HEAVY},
        "handler": "heavy",
        "overhead": {"podFixed": {"cpu": "250m", "memory": "128Mi"}},
    }
    await real.request("POST", "/apis/node.k8s.io/v1/runtimeclasses", body=msgspec.json.encode(runtime))
    common = {"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "volumeBindingMode": "WaitForFirstConsumer"}
    for made in CLASSES:
        assert (await objects.create(real, common | made)).done


class TwinWorld:
    """One world as the API server has it and as tangram sees it."""

    def __init__(self, real: Client, oracle: Oracle, seed: int) -> None:
        self.real, self.oracle, self.maker = real, oracle, Maker(seed)
        self.prefix = f"w{seed}"
        self.cycle = Cycle(SchedulerSettings(scheduler_name=NAME))
        self.builder = self.cycle.builder
        self.nodes: dict[str, Node] = {}
        self.bound: dict[str, Pod] = {}
        self.serial = itertools.count()
        self.reasons: Counter[str] = Counter()
        """How often each reason kept a pod off a node."""
        self.fitting = self.repeated = self.resized = 0
        oracle.random.seed(seed)
        self.volumes: list[str] = []
        """Names of claims, which are those of their volumes."""
        self.local: list[tuple[str, str]] = []
        """(namespace, name) of claims that get a local disk with their node."""
        table = self.builder.volumes
        self.builder.volumes_are_known()
        for made in CLASSES:
            found = msgspec.convert(made | {"volumeBindingMode": "WaitForFirstConsumer"}, StorageClass)
            table.put_class(found.metadata.name, found)
        for name, team in TEAMS.items():
            labels = {"kubernetes.io/metadata.name": name} | ({"team": team} if team else {})
            self.builder.set_namespace(name, labels)

    async def begin(self) -> None:
        for number in range(self.maker.random.randint(4, 9)):
            name = f"{self.prefix}-n{number}"
            await self.write_node(self.maker.node(name))
            made = await objects.create(self.real, self.maker.drivers(name))
            assert made.done, made.message
            self.builder.put_drivers(name, msgspec.json.decode(made.body, type=CSINode))
        await self.see_nodes()

    async def end(self) -> None:
        for name in TEAMS:
            await self.real.request("DELETE", paths.PODS.collection(name), body=b'{"gracePeriodSeconds":0}')
            await self.real.request("DELETE", paths.PERSISTENT_VOLUME_CLAIMS.collection(name))
        for name in self.nodes:
            await objects.delete(self.real, paths.NODES.path(name))
            await objects.delete(self.real, paths.CSI_NODES.path(name))
        for name in self.volumes:
            await objects.delete(self.real, paths.PERSISTENT_VOLUMES.path(name))

    async def write_claims(self, manifests) -> None:
        """Create claims and volumes, and wait until those that belong together are bound."""
        for manifest in manifests:
            name = manifest["metadata"]["name"]
            answer = await objects.create(self.real, manifest)
            assert answer.done, answer.message
            if manifest["kind"] == "PersistentVolume":
                self.volumes.append(name)
                self.builder.put_volume(name, await self.ready_volume(answer.body))
                continue
            key = (manifest["metadata"]["namespace"], name)
            claim = msgspec.json.decode(answer.body, type=PersistentVolumeClaim)
            async with asyncio.timeout(30):
                while claim.spec.volume_name and claim.status.phase != "Bound":
                    await asyncio.sleep(0.02)
                    found = await objects.get_as(
                        self.real, paths.PERSISTENT_VOLUME_CLAIMS, name, key[0], kind=PersistentVolumeClaim
                    )
                    assert found is not None
                    claim = found
            self.builder.put_claim(key, claim)
            if claim.spec.storage_class_name == LATE_NOWHERE:
                self.local.append(key)

    async def ready_volume(self, body: bytes) -> PersistentVolume:
        """A volume that was created, once it may be given to a claim if it belongs to nobody."""
        volume = msgspec.json.decode(body, type=PersistentVolume)
        name = volume.metadata.name
        async with asyncio.timeout(30):
            while volume.spec.claim_ref is None and volume.status.phase != "Available":
                await asyncio.sleep(0.02)
                found = await objects.get_as(self.real, paths.PERSISTENT_VOLUMES, name, kind=PersistentVolume)
                assert found is not None
                volume = found
        return volume

    async def see_volumes(self) -> None:
        """Take in what has become of local disks and of claims to them."""
        for name in self.volumes:
            found = await objects.get_as(self.real, paths.PERSISTENT_VOLUMES, name, kind=PersistentVolume)
            self.builder.put_volume(name, found)
        for namespace, name in self.local:
            claims = paths.PERSISTENT_VOLUME_CLAIMS
            claim = await objects.get_as(self.real, claims, name, namespace, kind=PersistentVolumeClaim)
            self.builder.put_claim((namespace, name), claim)

    async def write_node(self, manifest) -> None:
        made = await objects.create(self.real, manifest)
        assert made.done, made.message
        self.take_node(made.body)

    def take_node(self, body: bytes) -> None:
        node = msgspec.json.decode(body, type=Node)
        self.nodes[node.metadata.name] = node
        self.builder.put_node(node)

    async def see_nodes(self) -> None:
        """Wait until kube-scheduler has seen what was last written of nodes: a pod that fits there is bound there."""
        name = f"{self.prefix}-seen-{next(self.serial)}"
        labels = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"seen": name}}}
        amounts = {"cpu": "1", "memory": "1Gi", "pods": "1"}
        made = await objects.create(self.real, labels | {"status": {"allocatable": amounts, "capacity": amounts}})
        assert made.done, made.message
        probe = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": "oracle-none"},
            "spec": {
                "schedulerName": NAME,
                "nodeSelector": {"seen": name},
                "tolerations": [{"operator": "Exists"}],
                "containers": [{"name": "main", "image": "none"}],
            },
        }
        async with asyncio.timeout(30):
            while True:
                pod, _ = await self.ask(probe)
                await self.remove(pod)
                if pod.spec.node_name:
                    break
        await objects.delete(self.real, paths.NODES.path(name))

    async def ask(self, manifest, *, delayed: bool = False) -> tuple[Pod, list[str]]:
        """Create the pod and wait for kube-scheduler's word: the pod as it ends, and all nodes that it may go to."""
        made = await objects.create(self.real, manifest)
        assert made.done, made.message
        uid = made.object()["metadata"]["uid"]
        if delayed:
            self.oracle.never_bound(uid)
        async with asyncio.timeout(30):
            pod = await self.oracle.end_of(uid)
        return pod, self.oracle.feasible.get(uid, [])

    async def remove(self, pod: Pod) -> None:
        name, namespace, uid = pod.metadata.name, pod.metadata.namespace, pod.metadata.uid
        await objects.delete(self.real, paths.PODS.path(name, namespace), uid=uid, grace_seconds=0)

    def ours(self, pod: Pod) -> tuple[list[str], dict[str, str]]:
        """The nodes that tangram finds feasible for the pod while it waits, and its reason for every other."""
        waiting = msgspec.structs.replace(pod, spec=msgspec.structs.replace(pod.spec, node_name=""))
        self.builder.put_pod(waiting)
        snapshot = self.builder.snapshot(0)
        _, known = self.cycle.memory.observe(snapshot)
        slot = snapshot.pending.names.index(next(one for one in snapshot.pending.names if one.uid == pod.metadata.uid))
        rows = self.builder.nodes.rows
        if slot in snapshot.pending.invalid:
            told = dict.fromkeys(rows, str(snapshot.pending.invalid[slot][0]))
        else:
            shape = int(snapshot.pending.shape[slot])
            scores, reasons = known.scores(shape), known.reasons(shape)
            assert all((scores[row] >= 0) == (reasons[row] == codes.FITS) for row in rows.values())
            told = {name: codes.NAMES[reasons[row]] for name, row in rows.items() if reasons[row] != codes.FITS}
        self.builder.remove_pod(pod.metadata.uid)
        return sorted(set(rows) - set(told)), told

    async def one_pod(self) -> str | None:
        """Ask both about a new pod; the whole story where they disagree."""
        manifest = self.maker.pod(f"{self.prefix}-p{next(self.serial)}", NAME, sorted(self.nodes))
        claims = self.maker.claims(manifest, sorted(self.nodes))
        made_late = (LATE, LATE_THERE)
        delayed = any(claim["spec"].get("storageClassName") in made_late for claim in claims)
        for patience in (0.2, 0.5, 1.5, 0):
            await self.write_claims(claims)
            pod, theirs = await self.ask(manifest, delayed=delayed)
            ours, told = self.ours(pod)
            if any(claim["spec"].get("storageClassName") == LATE_NOWHERE for claim in claims):
                await self.see_volumes()
            if ours == theirs:
                break
            self.repeated += 1
            said = [one.message for one in pod.status.conditions]
            print(f"asked again: {pod.metadata.name}: kube-scheduler {theirs} {said}, tangram {ours}, {told}")
            # kube-scheduler may not have heard of the last change yet, and holds the place of a pod whose volume it
            # waits for until it notices, once a second, that the pod is gone: only who disagrees calmly disagrees.
            await self.remove(pod)
            await asyncio.sleep(patience)
            # A claim for which a node was chosen is not what it was: the next pod has one of its own.
            name, another = pod.metadata.name, f"{self.prefix}-p{next(self.serial)}"
            manifest, claims = json.loads(json.dumps([manifest, claims]).replace(f'"{name}', f'"{another}'))
        else:
            return self.story(pod, ours, theirs, told)
        self.reasons.update(told.values())
        if pod.spec.node_name:
            self.fitting += 1
            self.bound[pod.metadata.uid] = pod
            self.builder.put_pod(pod)
        else:
            await self.remove(pod)
        return None

    def story(self, pod: Pod, ours: list[str], theirs: list[str], told: dict[str, str]) -> str:
        def show(thing) -> str:
            return msgspec.json.encode(thing).decode()

        lines = [f"world {self.prefix}: kube-scheduler allows {theirs}, tangram {ours}; it says {told}", show(pod)]
        lines += [show(node) for node in self.nodes.values()]
        lines += [show(one) for one in self.bound.values()]
        return "\n".join(lines)

    async def something_else(self) -> None:
        """Now and then the cluster changes by other hands."""
        random = self.maker.random
        if self.bound and random.random() < 0.3:
            await self.change_pod(random.choice(list(self.bound.values())))
        if random.random() < 0.12:
            await self.change_node(random.choice(list(self.nodes)))
            await self.see_nodes()

    async def change_pod(self, pod: Pod) -> None:
        name, namespace, uid = pod.metadata.name, pod.metadata.namespace, pod.metadata.uid
        match self.maker.random.choice(("gone", "gone", "terminating", "relabelled", "resized", "resized", "resized")):
            case "gone":
                await self.remove(pod)
                del self.bound[uid]
                self.builder.remove_pod(uid)
                return
            case "terminating":
                answer = await objects.delete(self.real, paths.PODS.path(name, namespace), uid=uid)
            case "resized":
                status = {"status": self.maker.resize()}
                answer = await objects.patch(self.real, paths.PODS.path(name, namespace, "status"), status)
                self.resized += is_resized(msgspec.json.decode(answer.body, type=Pod))
            case _:
                labels = {"app": self.maker.random.choice("abc"), "version": None}
                answer = await objects.patch(
                    self.real, paths.PODS.path(name, namespace), {"metadata": {"labels": labels}}
                )
        assert answer.done, answer.message
        self.bound[uid] = msgspec.json.decode(answer.body, type=Pod)
        self.builder.put_pod(self.bound[uid])

    async def change_node(self, name: str) -> None:
        made = self.maker.node(name)
        match self.maker.random.choice(("labels", "spec", "gone and back")):
            case "labels":
                old = dict.fromkeys(self.nodes[name].metadata.labels)
                patch = {"metadata": {"labels": old | made["metadata"]["labels"]}}
            case "spec":
                patch = {"spec": made["spec"]}
            case _:
                await objects.delete(self.real, paths.NODES.path(name))
                self.builder.remove_node(name)
                await self.write_node(made)
                return
        answer = await objects.patch(self.real, paths.NODES.path(name), patch)
        assert answer.done, answer.message
        self.take_node(answer.body)


@pytest.mark.timeout(120 + PODS)
async def test_the_same_nodes_are_feasible(real, oracle):
    disagreements: list[str] = []
    asked = fitting = repeated = resized = 0
    reasons: Counter[str] = Counter()
    for number in range(-(-PODS // PODS_PER_WORLD)):
        world = TwinWorld(real, oracle, 1000 * SEED + number)
        await world.begin()
        for _ in range(min(PODS_PER_WORLD, PODS - asked)):
            found = await world.one_pod()
            disagreements += [found] if found else []
            asked += 1
            await world.something_else()
            assert not list(legal.miscounted(world.builder))
        await world.end()
        reasons += world.reasons
        fitting, repeated, resized = fitting + world.fitting, repeated + world.repeated, resized + world.resized
    told = f"{resized} resizes, {repeated} asked again, {len(disagreements)} disagreements"
    print(f"{asked} pods, {fitting} fit somewhere, {told}")
    print(", ".join(f"{reason} {count}" for reason, count in reasons.most_common()))
    assert not disagreements, "\n\n".join(disagreements[:5])
    assert set(reasons) >= WANTED, f"these worlds never needed {WANTED - set(reasons)}"
