"""A recording is the cluster as far as decisions see it: read again, it leads to the same plan, byte for byte."""

import gzip
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from tests.budget import examples
from tests.worlds import START, bound, cluster, gang, node, pod, policy, recording

from tangram import errors
from tangram.api.objects import (
    ClaimReference,
    Condition,
    Metadata,
    Namespace,
    Node,
    NodeSelector,
    NodeSelectorTerm,
    Pod,
    PodVolume,
    Requirement,
)
from tangram.api.storage import (
    ClaimSpec,
    ClaimStatus,
    PersistentVolume,
    PersistentVolumeClaim,
    VolumeNodeAffinity,
    VolumeSpec,
)
from tangram.plan import Plan
from tangram.questions.observe import cycle_of, priced
from tangram.snapshot import recording as dump
from tangram.snapshot.nodes.inventory import NodeDevice
from tangram.snapshot.nodes.rejections import Rejection
from tangram.snapshot.recording import Recording, Storage, UnreadablePod

POLICY = policy(
    {"name": "gpu", "weight": 3, "nodeSelector": {"accelerator": "nvidia"}},
    {"name": "cpu"},
    fallback="preempt",
    queues=[{"name": "a", "limit": {"gpu": 4, "gpuModels": {"T4": "2500m"}}}, {"name": "b", "guarantee": {"gpu": 2}}],
)


SECRET = "hunter2"


def as_bytes(plan: Plan) -> bytes:
    return msgspec.json.encode(plan)


def plans(recorded: Recording) -> list[bytes]:
    cycle = cycle_of(recorded, batch=4)
    return [as_bytes(cycle.decide(recorded.now + step)) for step in range(4)]


@given(
    st.lists(st.sampled_from([30, 50, 100, 200]), max_size=12),
    st.lists(st.sampled_from(["a", "b", "", "unknown"]), min_size=12, max_size=12),
    st.booleans(),
)
@settings(max_examples=examples(25), deadline=None)
def test_what_is_read_again_leads_to_the_same_plans(shares: list[int], queues: list[str], with_policy: bool) -> None:
    nodes = cluster("2x4xA100", "1x2xT4")
    running = bound(pod("old", gpu=50), "n0", {"main": [("GPU-1", 50)]})
    waiting = [pod(f"p{place}", gpu=share, queue=queues[place]) for place, share in enumerate(shares)]
    recorded = recording(
        START,
        nodes,
        [running, *waiting, *gang("team", 3, whole=2)],
        POLICY if with_policy else None,
        inventories={"n0": tuple(NodeDevice(f"GPU-{index}", index != 2, 40 << 10, "A100") for index in range(4))},
        links={"n0": ((0, 40, 20, 1), (40, 0, 1, 20), (20, 1, 0, 40), (1, 20, 40, 0)), "n1": ()},
        at_risk=["n1"],
        unreadable=[UnreadablePod(Metadata("odd", "default", uid="odd"), "n2")],
    )
    again = msgspec.json.decode(msgspec.json.encode(recorded), type=Recording)
    assert plans(again) == plans(recorded)
    learned = priced(recorded)
    assert plans(msgspec.json.decode(msgspec.json.encode(learned), type=Recording)) == plans(recorded)


def test_what_agents_tell_of_gpus_is_in_it_and_files_from_before_they_told_memory_are_read() -> None:
    nodes, needs = [node("n0", 1, ""), node("n1", 1, "")], pod("a", gpu_memory="24Gi", gpu=30)
    told = {"n0": (NodeDevice("GPU-0", True, 16 << 10),), "n1": (NodeDevice("GPU-1", True, 80 << 10, "A100"),)}
    written = msgspec.json.encode(recording(START, nodes, [needs], inventories=told))
    [place] = cycle_of(msgspec.json.decode(written, type=Recording)).decide(START).place
    assert place.node == "n1"
    before = written.replace(b'["GPU-0",true,16384,"",""]', b'["GPU-0",true]')
    before = before.replace(b'["GPU-1",true,81920,"A100",""]', b'["GPU-1",true]')
    again = msgspec.json.decode(before, type=Recording)
    assert again.inventories == {"n0": (NodeDevice("GPU-0", True),), "n1": (NodeDevice("GPU-1", True),)}
    assert not cycle_of(again).decide(START).place


def test_what_kubelets_rejected_and_known_holes_are_in_it_without_words(tmp_path: Path) -> None:
    nodes, needs = cluster("2x1xA100"), [pod("a", whole=1)]
    rejection = Rejection("n0", ("0",), "", START - 1, SECRET)
    recorded = recording(START, nodes, needs, rejections={"uid-r": rejection}, vulnerable=("n1",))
    [place] = cycle_of(recorded).decide(START).place
    assert place.node == "n1"
    dump.save(recorded, tmp_path / "file")
    assert SECRET not in (tmp_path / "file").read_text()
    again = dump.load(tmp_path / "file")
    assert again.vulnerable == ("n1",)
    [place] = cycle_of(again).decide(START).place
    assert place.node == "n1"


def test_volumes_and_the_labels_of_namespaces_are_in_it_and_nothing_else_of_them() -> None:
    notes = {"pv.kubernetes.io/bind-completed": "yes", "other/x": SECRET}
    claim = PersistentVolumeClaim(Metadata("c", "default", annotations=notes), ClaimSpec("pv"), ClaimStatus("Bound"))
    there = NodeSelector((NodeSelectorTerm((Requirement("kubernetes.io/hostname", "In", ("n1",)),)),))
    volume = PersistentVolume(Metadata("pv", annotations={"x": SECRET}), VolumeSpec(VolumeNodeAffinity(there)))
    namespace = Namespace(Metadata("default", labels={"team": "red"}, annotations={"x": SECRET}))
    one = pod("p", gpu=30)
    one = replace(one, spec=replace(one.spec, volumes=(PodVolume("data", ClaimReference("c")),)))
    nodes = [node(name, 1, labels={"kubernetes.io/hostname": name}) for name in ("n0", "n1")]
    recorded = recording(START, nodes, [one], namespaces=[namespace], storage=Storage((claim,), (volume,)))
    assert SECRET not in msgspec.json.encode(recorded).decode()
    (place,) = cycle_of(recorded).decide(START).place
    assert place.node == "n1"
    lost = replace(recorded, storage=Storage(volumes=(volume,)))
    assert not cycle_of(lost).decide(START).place


@pytest.mark.parametrize("name", ["world.json", "world.json.gz"])
def test_a_file_holds_the_recording_and_equal_recordings_are_equal_files(tmp_path: Path, name: str) -> None:
    recorded = priced(recording(START, cluster("1x2xA100"), [pod("a", gpu=30)], POLICY))
    dump.save(recorded, tmp_path / name)
    assert dump.load(tmp_path / name) == recorded
    first = (tmp_path / name).read_bytes()
    dump.save(dump.load(tmp_path / name), tmp_path / name)
    assert (tmp_path / name).read_bytes() == first
    assert first.startswith(b"\x1f\x8b") == name.endswith(".gz")


def test_nothing_secret_is_in_it() -> None:
    wire = {
        "metadata": {
            "name": "a",
            "namespace": "default",
            "uid": "1",
            "labels": {"team": "red"},
            "annotations": {"kubectl.kubernetes.io/last-applied-configuration": SECRET, "other/x": SECRET},
            "managedFields": [{"manager": SECRET}],
        },
        "spec": {
            "schedulerName": "tangram",
            "containers": [
                {
                    "name": "main",
                    "image": SECRET,
                    "command": [SECRET],
                    "args": [SECRET],
                    "env": [{"name": "TOKEN", "value": SECRET}],
                    "envFrom": [{"secretRef": {"name": SECRET}}],
                }
            ],
            "volumes": [{"name": "v", "secret": {"secretName": SECRET}}],
            "imagePullSecrets": [{"name": SECRET}],
        },
        "status": {"message": SECRET, "conditions": [{"type": "PodScheduled", "message": SECRET}]},
    }
    node = Node(Metadata("n", annotations={"csi": SECRET}))
    node = msgspec.structs.replace(
        node, status=msgspec.structs.replace(node.status, conditions=(Condition("Ready", message=SECRET),))
    )
    text = msgspec.json.encode(recording(START, [node], [msgspec.convert(wire, Pod)])).decode()
    assert SECRET not in text
    assert '"team":"red"' in text


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "content"),
        (b"[]", "content"),
        (b'{"format": 99, "now": 1}', "format: 99"),
        (b"\x1f\x8bnot gzip", "cannot be read"),
        (b'{"pods": [{"x": ' + b"[" * 60_000, "a file written by `tangram snapshot save`"),
        (gzip.compress(b"{}", mtime=0), "content"),
    ],
)
def test_another_file_is_refused_by_name(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(errors.TangramError, match=says) as caught:
        dump.load(tmp_path / "x")
    assert str(tmp_path / "x") in str(caught.value)


@pytest.mark.parametrize("broken", [{}, {"pod": []}, {"revision": "x"}, {"pod": "x"}, {"pod": [[1.0]]}, {"cpu": None}])
def test_prices_that_cannot_be_used_are_learned_again(broken: dict[str, object]) -> None:
    learned = priced(recording(START, cluster("1x2xA100"), [pod(f"p{index}", gpu=30) for index in range(9)]))
    assert learned.prices is not None
    prices = {**learned.prices, **broken} if broken else {}
    if "pod" in broken and broken["pod"] == []:
        del prices["cpu"]
    assert plans(msgspec.structs.replace(learned, prices=prices)) == plans(learned)


def test_a_missing_file_is_not_reachable(tmp_path: Path) -> None:
    with pytest.raises(errors.NotReachable, match="cannot be read"):
        dump.load(tmp_path / "none")
    with pytest.raises(errors.NotReachable, match="cannot be written"):
        dump.save(recording(START, [], []), tmp_path / "none" / "x")
