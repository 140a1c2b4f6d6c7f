"""Everybody else in the cluster: the scheduler, the kubelets, the garbage collectors and the node controller."""

import random
from dataclasses import dataclass, field
from typing import Any

from tests.controllers.builders import condition, ended
from tests.controllers.histories.server import ENDED, Object, Server

from tangram.api import names

UNREACHABLE_SECONDS, EVICTION_SECONDS, ORPHANED_SECONDS = 40.0, 300.0, 40.0
"""As kube-controller-manager has them: a silent node is not ready, its pods are evicted, those of no node removed."""


@dataclass
class Node:
    """A node; ``silent`` since when its kubelet says nothing, and ``there`` whether its object exists."""

    name: str
    silent: float | None = None
    there: bool = True
    gone: float = 0.0


@dataclass
class Neighbours:
    """Who works on pods beside the controllers; ``step`` is called every second or so."""

    server: Server
    chance: random.Random
    nodes: dict[str, Node] = field(default_factory=lambda: {f"node-{n}": Node(f"node-{n}") for n in range(3)})
    room: bool = True
    """Whether the scheduler finds places."""
    codes: dict[str, list[int]] = field(default_factory=dict)
    """Uid of a pod -> with which codes its containers are about to end."""
    calm: bool = False

    def step(self) -> None:
        for pod in self.server.all("pods"):
            self._collect(pod)
        for item in (*self.server.all("services"), *self.server.all("poddisruptionbudgets")):
            if self._orphaned(item):
                resource = "services" if item["kind"] == "Service" else "poddisruptionbudgets"
                self.server.remove(resource, item["metadata"]["name"])
        for pod in self.server.all("pods"):
            node = self.nodes.get(pod["spec"].get("nodeName", ""))
            if node is None:
                self._schedule(pod)
            elif node.silent is None and node.there:
                self._kubelet(pod)
            else:
                self._node_controller(pod, node)

    def _orphaned(self, item: Object) -> bool:
        owner = item["metadata"]["ownerReferences"][0]
        resource = f"{owner['kind'].lower()}s"
        there = self.server.get(resource, owner["name"])
        return there is None or there["metadata"]["uid"] != owner["uid"]

    def _collect(self, pod: Object) -> None:
        if self._orphaned(pod) and self.chance.random() < 0.5:
            self.server.delete("pods", pod["metadata"]["name"])

    def _schedule(self, pod: Object) -> None:
        able = [node.name for node in self.nodes.values() if node.there and node.silent is None]
        name = pod["metadata"]["name"]
        if not able or not self.room:
            said = condition("PodScheduled", "False", "Unschedulable", "InsufficientGpu: no node has it")
            if not pod["status"].get("conditions"):
                self._status(name, {"conditions": [said | {"lastTransitionTime": self.server.now}]})
        elif self.chance.random() < 0.7:
            bound = condition("PodScheduled", "True") | {"lastTransitionTime": self.server.now}
            self.server.change("pods", name, {"spec": {"nodeName": self.chance.choice(able)}})
            self._status(name, {"conditions": [bound]})

    def _kubelet(self, pod: Object) -> None:
        name, phase = pod["metadata"]["name"], pod["status"]["phase"]
        if "deletionTimestamp" in pod["metadata"]:
            if phase not in ENDED and self.chance.random() < 0.4:
                self.end(pod, self.chance.choice((0, 137)))  # how its containers end when they are told to
            elif self.chance.random() < 0.6:
                self.server.remove("pods", name)
        elif phase == "Pending" and self.chance.random() < 0.7:
            self._status(name, {"phase": "Running", "conditions": [condition("Ready", "False")]})
        elif phase == "Running":
            self._running(pod)

    def _running(self, pod: Object) -> None:
        coming = self.codes.get(pod["metadata"]["uid"])
        if coming and self.chance.random() < 0.5:
            self.end(pod, coming.pop())
        elif not _is_ready(pod) and "containerStatuses" not in pod["status"] and self.chance.random() < 0.7:
            self._status(pod["metadata"]["name"], {"conditions": [condition("Ready", "True")]})

    def end(self, pod: Object, code: int, reason: str = "", *, disrupted: bool = False) -> None:
        """The containers of a pod end."""
        statuses = [one | {"name": "main"} for one in ended(code)]
        for one in statuses:
            one["state"]["terminated"]["finishedAt"] = self.server.now
        change: dict[str, Any] = {
            "phase": "Failed" if code or reason else "Succeeded", "reason": reason, "containerStatuses": statuses,
            "conditions": [condition("DisruptionTarget", "True")] if disrupted else [],
        }  # fmt: skip
        self._status(pod["metadata"]["name"], change)

    def _node_controller(self, pod: Object, node: Node) -> None:
        """What happens to the pods of a node that is silent or gone."""
        now, name = self.server.clock(), pod["metadata"]["name"]
        if not node.there and now - node.gone > ORPHANED_SECONDS:
            if pod["status"]["phase"] not in ENDED:
                self.end(pod, 0, "NodeLost", disrupted=True)
            self.server.remove("pods", name)
            return
        if node.silent is None:
            return
        if now - node.silent > UNREACHABLE_SECONDS and _is_ready(pod):
            self._status(name, {"conditions": [condition("Ready", "False")]})
        if now - node.silent > EVICTION_SECONDS:
            if pod["status"]["phase"] not in ENDED and "deletionTimestamp" not in pod["metadata"]:
                self._status(name, {"conditions": [condition("DisruptionTarget", "True")]})
            self.server.delete("pods", name)

    def _status(self, name: str, change: dict[str, Any]) -> None:
        self.server.change("pods", name, {"status": change})

    def make_well(self) -> None:
        """All nodes are there and well: those that were gone with nothing on them."""
        for node in self.nodes.values():
            if not node.there:
                for pod in self.server.all("pods"):
                    if pod["spec"].get("nodeName") == node.name:
                        self.server.remove("pods", pod["metadata"]["name"])
            node.silent, node.there = None, True
        self.room = True


def _is_ready(pod: Object) -> bool:
    return any(one["type"] == "Ready" and one["status"] == "True" for one in pod["status"].get("conditions", ()))


def is_serving(pod: Object) -> bool:
    """Whether a pod answers and nobody has asked it to go."""
    return pod["status"]["phase"] == "Running" and "deletionTimestamp" not in pod["metadata"] and _is_ready(pod)


def listens_on(pod: Object) -> int:
    """The port that a replica of a service was made with."""
    variables = {one["name"]: one["value"] for one in pod["spec"]["containers"][0]["env"]}
    return int(variables["TANGRAM_PORT"])


def owner_of(pod: Object) -> str:
    """The uid of the owner of a pod."""
    return str(pod["metadata"]["ownerReferences"][0]["uid"])


def label(pod: Object, key: str) -> str:
    """A label, empty when it is missing."""
    return str(pod["metadata"].get("labels", {}).get(key, ""))


def replica_of(pod: Object) -> tuple[str, str]:
    """Which replica of its owner a pod is."""
    return label(pod, names.ROLE) or label(pod, names.REVISION), label(pod, names.INDEX)
