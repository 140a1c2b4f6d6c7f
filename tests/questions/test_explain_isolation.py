"""What explain and what-if say where GPUs are given out in another way than a pod needs."""

import msgspec
import pytest
from tests.worlds import START, bound, cluster, pod, recording

from tangram.api import names
from tangram.api.objects import Pod
from tangram.questions.explain import Explanation, explain
from tangram.questions.what_if import Fit, judge
from tangram.snapshot.nodes.inventory import NodeDevice
from tangram.snapshot.recording import Recording


def recorded(mode: str, *pods: Pod) -> Recording:
    """A node whose agent gives out its GPU in a mode of isolation."""
    told = {"n0": (NodeDevice("GPU-0", True, 40 << 10, "A100", mode),)}
    return recording(START, cluster("1x1xA100"), pods, inventories=told)


def explained(mode: str, waiting: Pod, *others: Pod) -> Explanation:
    return explain(recorded(mode, waiting, *others), waiting)


def accepting(modes: str, **asked: int) -> Pod:
    return pod("w", annotations={names.GPU_ISOLATION: modes}, **asked)


def test_a_recording_holds_the_mode_and_one_from_before_says_nothing_of_it() -> None:
    written = msgspec.json.encode(recorded("exclusive", pod("w", gpu=30)))
    assert judge(msgspec.json.decode(written, type=Recording), (pod("v", gpu=30),)).fit is Fit.NEVER
    before = written.replace(b'"A100","exclusive"]', b'"A100"]')
    assert before != written
    assert judge(msgspec.json.decode(before, type=Recording), (pod("v", gpu=30),)).fit is Fit.NOW


@pytest.mark.parametrize(
    ("mode", "waiting", "reason", "proposals"),
    [
        ("exclusive", pod("w", gpu=30), "SharingNotAllowed", ["ask for a whole GPU instead of 0.30 of a GPU"]),
        (
            "time-slice", accepting("mps", gpu=30), "IsolationMismatch",
            ["allow isolation time-slice besides mps", "ask for a whole GPU instead of 0.30 of a GPU"],
        ),
        ("mps", accepting("mig", whole=1), "IsolationMismatch", ["allow isolation exclusive besides mig"]),
        ("mps", accepting("mig", gpu=30), "InvalidRequest", ["allow isolation mps besides mig"]),
    ],
)  # fmt: skip
def test_what_would_help(mode: str, waiting: Pod, reason: str, proposals: list[str]) -> None:
    found = explained(mode, waiting)
    assert found.reason == reason
    assert [one.change.text for one in found.proposals] == proposals


def test_one_more_node_is_like_the_one_that_is_there_in_what_its_agent_tells() -> None:
    holder = bound(pod("f", whole=1), "n0", {"main": [("GPU-0", 100)]})
    assert "add a node like n0" in [one.change.text for one in explained("mps", pod("w", gpu=30), holder).proposals]
    assert not explained("exclusive", pod("w", gpu=30), holder).proposals[1:]
