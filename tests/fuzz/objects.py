"""Objects as an API server might show them, and as none should: odd in every field that anybody can write."""

import json
import random
from typing import Any

from tangram.api import names

QUANTITIES: tuple[Any, ...] = (
    "0", "1", "30", "100", "150", "200", "1024", "102400", "500m", "1e3", "1k", "1Ki", "8Gi", "4Pi", "1E", "9e15",
    "281474976710656", "281474976710657", "4503599627370496", "1e300", "-1", "-8Gi", "abc", "", "٣", "1" * 40, 0, 1, 3,
    0.5, 1e300, -7, 2**70, None, True,
)  # fmt: skip
MEMORIES = ("", "0", "1Mi", "8Gi", "64Ti", "127Ti", "128Ti", "129Ti", "1e14", "-1Gi", "∞")
WHOLES: tuple[Any, ...] = (0, 1, -1, 2**31 - 1, -(2**31), 2**31, 2**63, 2**80, 1.5, "7")
TIMES = (
    None, "2023-11-14T22:13:20Z", "9999-12-31T23:59:59Z", "0001-01-01T00:00:00+23:59", "yesterday", "", "٢٠٢٣-11-14",
    "2023-11-14T22:13:20.123456789+14:00",
)  # fmt: skip
DURATIONS = ("", "30s", "0s", "999999d", "-5m", "1h30m", "9" * 30 + "h", "soon")
WORDS = ("", "a", "b", "g", "ß", "日本", "a" * 300, "a/b", "|", "null", "\u202e", "\x00", "0")
RESOURCES = (
    "cpu", "memory", "ephemeral-storage", "pods", "hugepages-2Mi", "nvidia.com/gpu", "amd.com/gpu", "example.com/foo",
    names.FRACTION_RESOURCE,
)  # fmt: skip
RECORDS = (
    '{"main":[{"id":"0","share":100}]}', '{"main":[{"id":"0","share":50,"memoryMiB":4000000000000}]}',
    '{"main":[{"id":"0","share":-50}]}', '{"main":[{"id":"99","share":100}]}', '{"c0":[{"id":"1","share":30}]}',
    '{"main":[{"id":"0","share":50,"memoryMiB":134217728}]}', "x", "{}", "[]", '{"main":null}',
)  # fmt: skip
OPERATORS = ("In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt", "Near")


class Odd:
    """Draws objects; equal seeds draw equal ones."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def chance(self, percent: int) -> bool:
        """True so often."""
        return self.random.random() * 100 < percent

    def one(self, of: Any) -> Any:
        """One of several."""
        return self.random.choice(of)

    def some(self, **fields: Any) -> dict[str, Any]:
        """Most of the fields."""
        return {key: value for key, value in fields.items() if not self.chance(8)}

    def amounts(self, most: int = 4) -> dict[str, Any]:
        """Resource -> quantity, half of them plausible."""
        found = self.random.sample(RESOURCES, self.random.randint(0, most))
        return {name: self.one(QUANTITIES[:13]) if self.chance(60) else self.one(QUANTITIES) for name in found}

    def container(self, name: str) -> dict[str, Any]:
        """A container with requests and limits."""
        resources: dict[str, Any] = {"requests": self.amounts()}
        if self.chance(30):
            resources["limits"] = self.amounts(2)
        found: dict[str, Any] = {"name": name, "resources": resources}
        if self.chance(20):
            found["restartPolicy"] = "Always"
        if self.chance(4):
            found["ports"] = [{"hostPort": self.one(WHOLES), "protocol": self.one(("TCP", "x"))}]
        return found

    def clause(self) -> dict[str, Any]:
        """A requirement about labels."""
        values = [self.one(WORDS) for _ in range(self.random.randint(0, 2))]
        return {"key": self.one(WORDS), "operator": self.one(OPERATORS), "values": values}

    def selector(self) -> dict[str, Any]:
        """A label selector."""
        return self.some(matchLabels={self.one(WORDS): self.one(WORDS)}, matchExpressions=[self.clause()])

    def affinity(self) -> dict[str, Any]:
        """Affinity of some kind."""
        term = {"topologyKey": self.one(WORDS), "labelSelector": self.selector()}
        weight = self.one(WHOLES) if self.chance(30) else self.random.randint(1, 100)
        node = {"matchExpressions": [self.clause()]}
        return self.some(
            nodeAffinity=self.some(
                requiredDuringSchedulingIgnoredDuringExecution={"nodeSelectorTerms": [node]},
                preferredDuringSchedulingIgnoredDuringExecution=[{"weight": weight, "preference": node}],
            ),
            podAntiAffinity=self.some(
                requiredDuringSchedulingIgnoredDuringExecution=[term],
                preferredDuringSchedulingIgnoredDuringExecution=[{"weight": weight, "podAffinityTerm": term}],
            ),
        )

    def spread(self) -> dict[str, Any]:
        """A spread constraint."""
        return self.some(
            maxSkew=self.one(WHOLES) if self.chance(30) else 1,
            minDomains=self.one((None, 1, *WHOLES)),
            topologyKey=self.one(WORDS),
            whenUnsatisfiable=self.one(("DoNotSchedule", "ScheduleAnyway", "x")),
            labelSelector=self.selector(),
        )

    def metadata(self, name: str, uid: str) -> dict[str, Any]:
        """Metadata with labels and annotations that we read."""
        labels = {
            names.GANG: self.one(WORDS),
            names.ROLE: self.one(WORDS),
            names.QUEUE: self.one(("", "team", "b", "ß")),
        }
        notes = {
            names.GPU_MEMORY: self.one(MEMORIES),
            names.GANG_MIN: self.one(("1", "2", "100000", "x", "-1", "٣")),
            names.GANG_ROLE_MIN: self.one(
                ("a=1", "a=1,b=100000", "=", "a", ",".join(f"r{n}=100000" for n in range(16)))
            ),
            names.GANG_TIMEOUT: self.one(DURATIONS),
            names.ESTIMATED_DURATION: self.one(DURATIONS),
            names.LAST_CHECKPOINT: self.one(TIMES) or "",
            names.NEAREST: self.one(("a|b", "|", "日本", "a" * 100)),
            names.GPU_ISOLATION: self.one(("mps", "exclusive", "ß", "mps|mig")),
            names.GPU_MODELS: self.one(("A100", "|", "ß")),
            names.TOPOLOGY_REQUIRED: self.one(WORDS),
        }
        found: dict[str, Any] = {"name": name, "namespace": self.one(("default", "日本")), "uid": uid}
        found["creationTimestamp"] = self.one(TIMES)
        found["labels"] = {key: value for key, value in labels.items() if self.chance(25)}
        found["annotations"] = {key: value for key, value in notes.items() if self.chance(12)}
        if self.chance(10):
            found["deletionTimestamp"] = self.one(TIMES)
        if self.chance(15):
            owner = {"kind": self.one(("Job", "DaemonSet", "")), "name": self.one(WORDS), "uid": self.one(WORDS)}
            found["ownerReferences"] = [owner | {"controller": True}]
        return found

    def pod(self, name: str, node: str) -> dict[str, Any]:
        """A pod, on the node unless that is empty; sometimes another scheduler's."""
        several = self.random.randint(2, 18) if self.chance(10) else 1
        spec: dict[str, Any] = {
            "schedulerName": "other" if self.chance(10) else names.SCHEDULER_NAME,
            "containers": [self.container("main" if number == 0 else f"c{number}") for number in range(several)],
            "initContainers": [self.container(f"i{number}") for number in range(self.one((0, 0, 0, 1, 3)))],
            "priority": self.one(WHOLES) if self.chance(15) else self.one((0, 1, 1000)),
        }
        if node:
            spec["nodeName"] = node
        for key, percent, value in (
            ("affinity", 5, self.affinity), ("overhead", 5, self.amounts), ("nodeSelector", 5, lambda: {"a": "b"}),
            ("topologySpreadConstraints", 4, lambda: [self.spread()]), ("preemptionPolicy", 5, lambda: "Never"),
            ("tolerations", 8, lambda: [{"key": self.one(WORDS), "operator": self.one(("Exists", "Equal", ""))}]),
            ("volumes", 4, lambda: [{"name": "v", "persistentVolumeClaim": {"claimName": self.one(WORDS)}}]),
        ):  # fmt: skip
            if self.chance(percent):
                spec[key] = value()
        metadata = self.metadata(name, f"uid-{name}")
        if node and self.chance(70):
            metadata["annotations"][names.GPUS] = self.one(RECORDS)
        status = {"phase": self.one(("Running", "Succeeded", "Failed")) if self.chance(8) else "Pending"}
        status["startTime"] = self.one(TIMES)
        return {"metadata": metadata, "spec": spec, "status": status}

    def node(self, name: str) -> dict[str, Any]:
        """A node, mostly one on which something fits."""
        gpus = self.one((0, 2, 8))
        amounts: dict[str, Any] = {"cpu": 96, "memory": "1Ti", "pods": 110, names.GPU_RESOURCE: gpus}
        amounts[names.FRACTION_RESOURCE] = 100 * gpus
        amounts |= self.amounts(2) if self.chance(30) else {}
        labels = {"nvidia.com/gpu.product": self.one(("A100", "ß")), "kubernetes.io/hostname": name}
        labels["nvidia.com/gpu.memory"] = self.one(("81920", "0", "99999999", "x", "٣", "-1", "9" * 30))
        labels |= {self.one(WORDS): self.one(WORDS)}
        spec = self.some(unschedulable=self.chance(5), taints=[{"key": self.one(WORDS), "effect": "NoSchedule"}])
        return {
            "metadata": {"name": name, "labels": labels},
            "spec": spec if self.chance(30) else {},
            "status": {"allocatable": amounts},
        }

    def devices(self) -> list[tuple[str, bool, int, str, str]]:
        """Devices as an agent reports them: (id, healthy, MiB, model, isolation)."""
        count = self.one((0, 1, 2, 8, 8, 2000 if self.chance(2) else 4))
        sizes = (0, 81920, 134217728, -5, 2**40, 2**70)
        return [
            (
                self.one((str(n), f"GPU-{n}", "" if self.chance(2) else f"u{n}")),
                self.chance(90),
                self.one(sizes),
                self.one(WORDS),
                self.one(WORDS),
            )
            for n in range(count)
        ]

    def distances(self) -> list[list[int]]:
        """Distances as an agent reports them, at times not square."""
        count = self.one((0, 2, 8))
        return [[self.one((1, 2, 3, -1, 2**40)) if self.chance(5) else 1 for _ in range(count)] for _ in range(count)]


def text(found: dict[str, Any]) -> bytes:
    """As it comes over the wire."""
    return json.dumps(found, ensure_ascii=False).encode()
