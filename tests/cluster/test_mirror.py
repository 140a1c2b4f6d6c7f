"""The copy stays true whatever echoes of the past the network delivers."""

from hypothesis import given
from hypothesis import strategies as st

from tangram.api.objects import Metadata, Pod, PodSpec
from tangram.cluster.mirror import Mirror
from tangram.cluster.wire import Lines


def a_pod(name, uid, version):
    return Pod(
        Metadata(name=name, namespace="n", uid=uid, resource_version=str(version)), PodSpec(node_name=str(version))
    )


@st.composite
def histories(draw):
    """What a server did: (change, pod as it then was, names that existed afterwards), versions growing."""
    alive: dict[str, Pod] = {}
    history = []
    version = 1
    for _ in range(draw(st.integers(1, 25))):
        name = draw(st.sampled_from("abc"))
        version += draw(st.integers(1, 3))
        if name in alive and draw(st.booleans()):
            gone = alive.pop(name)
            history.append(("deleted", a_pod(name, gone.metadata.uid, version), dict(alive)))
        else:
            uid = alive[name].metadata.uid if name in alive else f"{name}-{version}"
            alive[name] = a_pod(name, uid, version)
            history.append(("upserted", alive[name], dict(alive)))
    return history


def deliver(mirror, change, pod):
    mirror.delete(pod.metadata) if change == "deleted" else mirror.upsert(pod)


class Follower:
    """Believes only what the sink says, and checks that each change makes sense."""

    def __init__(self):
        self.known = {}

    def __call__(self, change, old, new):
        if change == "added":
            assert old is None
            assert new.metadata.name not in self.known
        elif change in ("modified", "deleted"):
            assert self.known[old.metadata.name] is old
            assert new is None or new.metadata.uid == old.metadata.uid
        if change == "deleted":
            del self.known[old.metadata.name]
        elif change != "synced":
            self.known[new.metadata.name] = new


@given(histories(), st.data())
def test_echoes_of_the_past_change_nothing(history, data):
    follower = Follower()
    mirror = Mirror(follower)
    for now, (change, pod, _) in enumerate(history):
        deliver(mirror, change, pod)
        for echo in data.draw(st.lists(st.integers(0, now), max_size=3)):
            deliver(mirror, *history[echo][:2])
        truth = history[now][2]
        assert {key[1]: thing for key, thing in mirror.objects.items()} == truth
        assert follower.known == truth


@given(histories(), st.data())
def test_any_part_of_the_events_may_be_replaced_by_a_complete_state(history, data):
    follower = Follower()
    mirror = Mirror(follower)
    for change, pod, alive in history:
        what = data.draw(st.sampled_from(["event", "lost", "complete"]))
        if what == "event":
            deliver(mirror, change, pod)
        elif what == "complete":
            complete = {("n", name): thing for name, thing in alive.items()}
            mirror.replace(complete, {}, pod.metadata.resource_version)
            assert mirror.objects == complete
        assert follower.known == {key[1]: thing for key, thing in mirror.objects.items()}


@given(histories())
def test_a_complete_state_that_is_known_already_is_not_heard(history):
    heard = []
    mirror = Mirror(lambda change, old, new: heard.append(change))
    for change, pod, _ in history:
        deliver(mirror, change, pod)
    heard.clear()
    mirror.replace(dict(mirror.objects), {}, mirror.resource_version)
    assert heard == ["synced"]


def test_versions_that_are_no_numbers_are_all_believed():
    mirror = Mirror(lambda change, old, new: None)
    for version in ("x", "y", "x"):
        mirror.upsert(a_pod("a", "u", version))
    assert mirror.objects["n", "a"].spec.node_name == "x"
    mirror.delete(a_pod("a", "u", "z").metadata)
    assert not mirror.objects


@given(st.lists(st.binary(max_size=20).map(lambda line: line.replace(b"\n", b"")), max_size=20), st.data())
def test_lines_are_the_same_however_the_stream_is_cut(lines, data):
    whole = b"".join(line + b"\n" for line in lines)
    places = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=10)))
    pieces = [whole[start:end] for start, end in zip([0, *places], [*places, len(whole)], strict=True)]
    cutter = Lines()
    assert [line for piece in pieces for line in cutter.feed(piece)] == [line for line in lines if line]


def test_an_unfinished_line_waits_for_its_end():
    lines = Lines()
    assert lines.feed(b"one\ntw") == [b"one"]
    assert lines.feed(b"o") == []
    assert lines.feed(b"\n") == [b"two"]
