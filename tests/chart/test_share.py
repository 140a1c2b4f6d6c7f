"""The pod of `helm test` that has a share of a GPU: what it asks for, and when it says that something is wrong."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tangram.api.names import FRACTION_RESOURCE

pytestmark = pytest.mark.slow  # a process each


def gpu_pod(render, **values):
    found = [one for one in render(values) if one["kind"] == "Pod" and one["metadata"]["name"].endswith("-test-gpu")]
    return found[0] if found else None


@pytest.mark.parametrize(
    ("values", "share"),
    [
        ({}, 10),
        ({"tests": {"gpuShare": 50}, "node": {"isolation": "time-slice"}}, 50),
        ({"node": {"isolation": "exclusive"}}, 100),
        ({"node": {"isolation": "mig"}}, None),
        ({"node": {"enabled": False}}, None),
        ({"tests": {"gpuShare": 0}}, None),
        ({"tests": {"gpuShare": 0}, "node": {"isolation": "exclusive"}}, None),
        ({"tests": {"enabled": False}}, None),
    ],
    ids=str,
)
def test_it_asks_for_a_share_that_the_agents_can_give(render, values, share):
    pod = gpu_pod(render, **values)
    if share is None:
        assert pod is None
        return
    resources = pod["spec"]["containers"][0]["resources"]
    assert resources["limits"][FRACTION_RESOURCE] == resources["requests"][FRACTION_RESOURCE] == share
    assert pod["spec"]["schedulerName"] == "tangram"
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"


@pytest.mark.parametrize(
    ("isolation", "variables", "devices", "says"),
    [
        ("mps", {"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "10"}, ["nvidia0"], ""),
        (
            "mps",
            {"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "90"},
            ["nvidia0"],
            "MPS holds the container to 90 and not to 10",
        ),
        ("mps", {}, ["nvidia0"], "MPS holds the container to nothing and not to 10 percent"),
        ("time-slice", {}, ["nvidia3"], ""),
        ("time-slice", {"NVIDIA_VISIBLE_DEVICES": "GPU-a"}, ["nvidiactl"], "the container sees no GPU"),
    ],
)
def test_it_fails_with_a_sentence_where_the_container_has_not_got_what_belongs_to_the_share(
    render, tmp_path: Path, isolation: str, variables: dict[str, str], devices: list[str], says: str
):
    command = gpu_pod(render, node={"isolation": isolation})["spec"]["containers"][0]["command"]
    assert command[0] == "python"
    for name in devices:
        (tmp_path / name).touch()
    arguments = [sys.executable, *command[1:3], command[3].replace("/dev", str(tmp_path)), *command[4:]]
    plain = {name: text for name, text in os.environ.items() if not name.startswith(("CUDA_", "NVIDIA_"))}
    done = subprocess.run(arguments, env=plain | variables, capture_output=True, text=True, check=False)
    assert (done.returncode == 0) is (not says), done.stderr
    assert says in done.stderr
    assert done.stdout.startswith("GPUs: ")
