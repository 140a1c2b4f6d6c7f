"""Each node's agent is held to the GPUNode of its own node by what its token says of its pod."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from tests.waiting import eventually

NAMESPACE = "tangram-system"
ACCOUNT = "tangram-node"
MINE, OTHERS = "claim-node-1", "claim-node-2"


def gpu_node(name: str) -> str:
    return json.dumps({"apiVersion": "scheduling.example.com/v1", "kind": "GPUNode", "metadata": {"name": name}})


@pytest.fixture(scope="module")
def agent(release) -> Iterator[Any]:
    """Runs kubectl with the token of an agent's pod on MINE; ``bound=False``: with one that names no pod."""
    names = (MINE, OTHERS)
    nodes = [{"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}} for name in names]
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "agent", "namespace": NAMESPACE},
        "spec": {
            "nodeName": MINE,
            "serviceAccountName": ACCOUNT,
            "containers": [{"name": "node", "image": "example"}],
            "tolerations": [{"operator": "Exists"}],
        },
    }
    release.kubectl("create", "-f", "-", input=json.dumps({"apiVersion": "v1", "kind": "List", "items": [*nodes, pod]}))
    request = ("create", "token", ACCOUNT, "-n", NAMESPACE)
    bound = release.kubectl(*request, "--bound-object-kind=Pod", "--bound-object-name=agent").stdout.strip()
    loose = release.kubectl(*request).stdout.strip()

    def run(*arguments: str, text: str = "", of_pod: bool = True):
        token = bound if of_pod else loose
        return release.kubectl(f"--token={token}", *arguments, input=text, check=False)

    yield run
    release.kubectl("delete", "pod", "agent", "-n", NAMESPACE, "--force", "--grace-period=0")
    release.kubectl("delete", "gpunode", "--ignore-not-found", *names)
    release.kubectl("delete", "node", *names)


def refused(answer, *words: str) -> bool:
    return answer.returncode != 0 and all(word in answer.stderr for word in words)


@pytest.fixture(scope="module")
def in_force(agent) -> None:
    """New rules reach the API server's admission a moment after they are stored."""

    def tried():
        return agent("create", "--dry-run=server", "-f", "-", text=gpu_node(OTHERS))

    eventually(lambda: refused(tried(), "not the node"), "the admission policy is in force")


@pytest.mark.cluster
def test_an_agent_writes_its_own_gpunode_and_no_other(agent, in_force, release):
    assert agent("create", "-f", "-", text=gpu_node(MINE)).returncode == 0
    release.kubectl("create", "-f", "-", input=gpu_node(OTHERS))

    def report(name: str):
        status = json.dumps(json.loads(gpu_node(name)) | {"status": {"gpus": 1}})
        return agent("apply", "--server-side", "--subresource=status", "-f", "-", text=status)

    answer = report(MINE)
    assert answer.returncode == 0, answer.stderr
    answer = report(OTHERS)
    assert refused(answer, f"metadata.name: {OTHERS} is not the node of this agent, which is {MINE}"), answer.stderr


@pytest.mark.cluster
def test_a_token_that_names_no_pod_writes_nothing(agent, in_force):
    answer = agent("create", "-f", "-", text=gpu_node("claim-node-3"), of_pod=False)
    assert refused(answer, "its token is not bound to a pod"), answer.stderr
