"""Random nodes and pods that use every rule of placement, as manifests: the questions for the oracle."""

from random import Random
from typing import Any

Manifest = dict[str, Any]

APPS, TIERS, ZONES, RACKS = ("a", "b", "c"), ("web", "db"), ("z1", "z2", "z3"), ("r1", "r2")
KEYS = ("kubernetes.io/hostname", "zone", "rack", "nowhere")
TEAMS = {"oracle-red": "red", "oracle-blue": "blue", "oracle-none": ""}
"""Namespace -> its label ``team``."""
TAINTS = (
    {"key": "dedicated", "value": "x", "effect": "NoSchedule"},
    {"key": "dedicated", "value": "y", "effect": "NoSchedule"},
    {"key": "broken", "value": "", "effect": "NoExecute"},
    {"key": "slow", "value": "", "effect": "PreferNoSchedule"},
)
# No namespace selector here consists of NotIn and DoesNotExist alone: kube-scheduler 1.36 takes such a selector of a
# waiting pod for one of all namespaces, because after merging it into the term's names it clears it in a copy only.
SPREAD_KEYS = KEYS[:3]
HEAVY = "oracle-heavy"
"""A RuntimeClass with an overhead."""
LATE, LATE_THERE, LATE_NOWHERE = "oracle-late", "oracle-late-there", "oracle-late-nowhere"
CLASSES: tuple[Manifest, ...] = (
    {"metadata": {"name": LATE}, "provisioner": "example.com/disks"},
    {
        "metadata": {"name": LATE_THERE},
        "provisioner": "example.com/disks",
        "allowedTopologies": [
            {"matchLabelExpressions": [{"key": "zone", "values": ["z1"]}]},
            {"matchLabelExpressions": [{"key": "zone", "values": ["z2"]}, {"key": "rack", "values": ["r1", "r2"]}]},
        ],
    },
    {"metadata": {"name": LATE_NOWHERE}, "provisioner": "kubernetes.io/no-provisioner"},
)
"""Storage classes whose volumes are made, or not, once a node is chosen."""
LATE_CLASSES = (LATE, LATE_THERE, LATE_NOWHERE)
CPUS = {"0": 0, "100m": 100, "500m": 500, "1": 1000, "2": 2000}
"""What containers ask for -> milli-CPUs."""
MEMORIES = {"0": 0, "64Mi": 64, "2Gi": 2048}
"""What containers ask for -> MiB."""
DRIVER = "disks.example.com"
"""The storage driver of volumes that exist."""
PLACE = "topology.kubernetes.io/zone"
"""The label by which a volume itself says where it is."""


class Maker:
    """Makes one world's objects from one seed."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.alone: list[tuple[str, str]] = []
        """(namespace, name) of the claims that one pod at a time may use."""

    def chance(self, share: float) -> bool:
        return self.random.random() < share

    def node(self, name: str) -> Manifest:
        random = self.random
        labels = {KEYS[0]: name}
        for key, values, share in (
            ("zone", ZONES, 0.9),
            ("rack", RACKS, 0.7),
            ("disk", ("ssd", "hdd"), 0.6),
            (PLACE, ZONES, 0.8),
        ):
            if self.chance(share):
                labels[key] = random.choice(values)
        if self.chance(0.7):
            labels["generation"] = random.choice(("1", "2", "10", "x", "1e3", "007"))
        amounts = {
            "cpu": f"{random.randint(2, 9)}",
            "memory": f"{random.randint(4, 20)}Gi",
            "pods": str(random.choice((3, 6, 30))),
            "ephemeral-storage": "100Gi",
        }
        if self.chance(0.4):
            amounts["example.com/widget"] = str(random.randint(0, 4))
        return {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": name, "labels": labels},
            "spec": self.node_spec(),
            "status": {
                "allocatable": amounts,
                "capacity": amounts,
                "conditions": [{"type": "Ready", "status": "True", "reason": "Test", "message": ""}],
            },
        }

    def node_spec(self) -> Manifest:
        taints = {(taint["key"], taint["effect"]): dict(taint) for taint in TAINTS if self.chance(0.12)}
        return {"unschedulable": self.chance(0.08), "taints": list(taints.values())}

    def pod(self, name: str, scheduler: str, nodes: list[str]) -> Manifest:
        random = self.random
        labels = {"app": random.choice(APPS), "tier": random.choice(TIERS)}
        if self.chance(0.3):
            labels["version"] = random.choice(("v1", "v2"))
        spec: Manifest = {
            "schedulerName": scheduler,
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 300,
            "containers": [self.container("main", ports=True)],
        }
        if self.chance(0.2):
            spec["containers"].append(self.container("second", ports=False))
        if self.chance(0.25):
            spec["initContainers"] = [
                self.container(f"init-{index}", ports=True, sidecar=self.chance(0.5)) for index in range(2)
            ]
        if self.chance(0.2):
            spec["resources"] = self.whole(spec)
        if self.chance(0.1):
            spec["runtimeClassName"] = HEAVY
        if self.chance(0.08):
            spec["hostNetwork"] = True
        if self.chance(0.25):
            spec["nodeSelector"] = random.choice(({"disk": "ssd"}, {"zone": "z1"}, {"zone": "z2", "rack": "r1"}))
        if self.chance(0.5):
            spec["tolerations"] = [self.toleration() for _ in range(random.randint(1, 2))]
        affinity = self.affinity(nodes)
        if affinity:
            spec["affinity"] = affinity
        if self.chance(0.35):
            spec["topologySpreadConstraints"] = self.spread()
        metadata = {"name": name, "namespace": random.choice(list(TEAMS)), "labels": labels}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}

    def whole(self, spec: Manifest) -> Manifest:
        """What a pod asks for as a whole: at least what its containers ask for together, as the API server demands."""
        found: Manifest = {}
        for resource, unit, values in (("cpu", "m", CPUS), ("memory", "Mi", MEMORIES)):
            containers = [one["resources"]["requests"][resource] for one in spec["containers"]]
            initial = [one["resources"]["requests"][resource] for one in spec.get("initContainers", ())]
            if self.chance(0.6):
                together = sum(values[one] for one in (*containers, *initial))
                found[resource] = f"{together + self.random.choice((0, 100, 1000))}{unit}"
        return {"requests": found}

    def drivers(self, node: str) -> Manifest:
        """What the storage driver says of a node: how many of its volumes it can have there, if it says so."""
        limit = {"allocatable": {"count": self.random.randint(1, 3)}} if self.chance(0.7) else {}
        driver = {"name": DRIVER, "nodeID": node, "topologyKeys": []} | limit
        return {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "CSINode",
            "metadata": {"name": node},
            "spec": {"drivers": [driver]},
        }

    def resize(self) -> Manifest:
        """The status of a bound pod whose container is resized in place: granted in part, or in vain."""
        memory = self.random.choice(("0", "2Gi", "6Gi"))
        held, actual = ({"cpu": self.random.choice(("0", "100m", "2", "5")), "memory": memory} for _ in range(2))
        known = {
            "name": "main", "image": "none", "imageID": "", "ready": False, "restartCount": 0,
            "resources": {"requests": actual}, "allocatedResources": held,
        }  # fmt: skip
        conditions = [{"type": "PodScheduled", "status": "True"}]
        if self.chance(0.5):
            why = self.random.choice(("Infeasible", "Deferred"))
            conditions.append({"type": "PodResizePending", "status": "True", "reason": why})
        return {"containerStatuses": [known], "conditions": conditions}

    def claims(self, pod: Manifest, nodes: list[str]) -> list[Manifest]:
        """Now and then a claim for the pod and the volume that it is bound to, as objects to create before it."""
        if not self.chance(0.4):
            return []
        if self.alone and self.chance(0.2):
            namespace, name = self.random.choice(self.alone)
            pod["metadata"]["namespace"] = namespace
            pod["spec"]["volumes"] = [{"name": "data", "persistentVolumeClaim": {"claimName": name}}]
            return []
        if self.chance(0.3):
            return self.local(pod, nodes)
        namespace, name = pod["metadata"]["namespace"], f"{pod['metadata']['name']}-data"
        pod["spec"]["volumes"] = [{"name": "data", "persistentVolumeClaim": {"claimName": name}}]
        kind = self.random.choice(
            ("bound", "bound", "bound", "alone", "placed", "placed", "missing", "immediate", *LATE_CLASSES)
        )
        claim: Manifest = {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}},
        }
        if kind in LATE_CLASSES:
            claim["spec"]["storageClassName"] = kind
            return [claim]
        if kind == "missing":
            return []
        claim["spec"]["storageClassName"] = ""
        if kind == "immediate":
            return [claim]
        claim["spec"]["volumeName"] = name
        volume = self.volume(name, namespace, placed=kind == "placed")
        if kind == "alone":
            self.alone.append((namespace, name))
            for one in (volume, claim):
                one["spec"]["accessModes"] = ["ReadWriteOncePod"]
        return [volume, claim]

    def local(self, pod: Manifest, nodes: list[str]) -> list[Manifest]:
        """Claims that get one of the local disks that are there already, and some new disks."""
        namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
        disks = [self.disk(f"{name}-disk-{number}", nodes) for number in range(self.random.randint(0, 2))]
        claims = [
            {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "metadata": {"name": f"{name}-local-{number}", "namespace": namespace},
                "spec": {
                    "accessModes": [self.random.choice(("ReadWriteOnce", "ReadWriteOnce", "ReadWriteMany"))],
                    "resources": {"requests": {"storage": f"{self.random.randint(1, 3)}Gi"}},
                    "storageClassName": LATE_NOWHERE,
                },
            }
            for number in range(self.random.choice((1, 1, 2)))
        ]
        pod["spec"]["volumes"] = [
            {"name": f"local-{number}", "persistentVolumeClaim": {"claimName": one["metadata"]["name"]}}
            for number, one in enumerate(claims)
        ]
        return [*disks, *claims]

    def disk(self, name: str, nodes: list[str]) -> Manifest:
        """A local disk of a node; now and then it can be reached from everywhere."""
        here = {"key": KEYS[0], "operator": "In", "values": [self.random.choice(nodes)]}
        affinity = {"nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [here]}]}}}
        spec: Manifest = {
            "accessModes": self.random.choice(
                (["ReadWriteOnce"], ["ReadWriteOnce"], ["ReadWriteOnce", "ReadWriteMany"])
            ),
            "capacity": {"storage": f"{self.random.randint(1, 4)}Gi"},
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": LATE_NOWHERE,
        }
        everywhere = self.chance(0.1)
        spec |= {"nfs": {"server": "none", "path": "/"}} if everywhere else {"local": {"path": "/none"}} | affinity
        return {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": spec}

    def volume(self, name: str, namespace: str, *, placed: bool) -> Manifest:
        """A volume that waits for its claim, and that some nodes can reach."""
        made: Manifest = {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": name, "labels": {}},
            "spec": {
                "accessModes": ["ReadWriteMany"],
                "capacity": {"storage": "1Gi"},
                "claimRef": {"namespace": namespace, "name": name},
                "csi": {"driver": DRIVER, "volumeHandle": name},
                "persistentVolumeReclaimPolicy": "Retain",
                "storageClassName": "",
            },
        }
        if placed:
            made["metadata"]["labels"][PLACE] = "__".join(self.random.sample(ZONES, self.random.randint(1, 2)))
        else:
            key, values = self.random.choice((("zone", ZONES), ("rack", RACKS), ("disk", ("ssd", "hdd"))))
            some = {"key": key, "operator": self.random.choice(("In", "NotIn")), "values": [self.random.choice(values)]}
            made["spec"]["nodeAffinity"] = {"required": {"nodeSelectorTerms": [{"matchExpressions": [some]}]}}
        return made

    def container(self, name: str, *, ports: bool, sidecar: bool = False) -> Manifest:
        random = self.random
        requests = {
            "cpu": random.choice(tuple(CPUS)),
            "memory": random.choice(tuple(MEMORIES)),
        }
        made: Manifest = {"name": name, "image": "none", "resources": {"requests": requests}}
        if self.chance(0.1):
            made["resources"] = {"limits": {"example.com/widget": "1"}, "requests": requests}
        if ports and self.chance(0.2):
            port = random.choice((8080, 9090))
            address = random.choice(("", "0.0.0.0", "127.0.0.1", "10.0.0.1"))
            protocol = random.choice(("TCP", "TCP", "UDP"))
            made["ports"] = [{"containerPort": port, "hostPort": port, "hostIP": address, "protocol": protocol}]
        if sidecar:
            made["restartPolicy"] = "Always"
        return made

    def toleration(self) -> Manifest:
        return dict(
            self.random.choice(
                (
                    {"operator": "Exists"},
                    {"key": "dedicated", "operator": "Exists"},
                    {"key": "dedicated", "operator": "Equal", "value": "x", "effect": "NoSchedule"},
                    {"key": "dedicated", "value": "y"},
                    {"key": "broken", "operator": "Exists", "effect": "NoExecute"},
                    {"key": "broken", "operator": "Exists", "effect": "NoSchedule"},
                    {"operator": "Exists", "effect": "PreferNoSchedule"},
                    {"key": "node.kubernetes.io/unschedulable", "operator": "Exists", "effect": "NoSchedule"},
                )
            )
        )

    def affinity(self, nodes: list[str]) -> Manifest:
        found: Manifest = {}
        if self.chance(0.25):
            terms = [self.node_term(nodes) for _ in range(self.random.randint(1, 2))]
            found["nodeAffinity"] = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
        for side, share in (("podAffinity", 0.22), ("podAntiAffinity", 0.22)):
            if self.chance(share):
                terms = [self.pod_term() for _ in range(self.random.choice((1, 1, 2)))]
                found[side] = {"requiredDuringSchedulingIgnoredDuringExecution": terms}
            if self.chance(0.08):
                liked = {"weight": self.random.randint(1, 100), "podAffinityTerm": self.pod_term()}
                found.setdefault(side, {})["preferredDuringSchedulingIgnoredDuringExecution"] = [liked]
        return found

    def node_term(self, nodes: list[str]) -> Manifest:
        random = self.random
        clauses = [
            {"key": "zone", "operator": "In", "values": random.sample(ZONES, 2)},
            {"key": "zone", "operator": "NotIn", "values": [random.choice(ZONES)]},
            {"key": "disk", "operator": "Exists"},
            {"key": "disk", "operator": "DoesNotExist"},
            {"key": "generation", "operator": "Gt", "values": [random.choice(("1", "5", "0"))]},
            {"key": "generation", "operator": "Lt", "values": [random.choice(("2", "10"))]},
        ]
        term: Manifest = {"matchExpressions": random.sample(clauses, random.randint(0, 2))}
        if self.chance(0.3):
            operator = random.choice(("In", "NotIn"))
            term["matchFields"] = [{"key": "metadata.name", "operator": operator, "values": [random.choice(nodes)]}]
        return term

    def selector(self) -> Manifest | None:
        random = self.random
        return random.choice(
            (
                {"matchLabels": {"app": random.choice(APPS)}},
                {"matchLabels": {"app": random.choice(APPS)}},
                {"matchLabels": {"tier": random.choice(TIERS)}},
                {"matchLabels": {"app": random.choice(APPS), "tier": random.choice(TIERS)}},
                {"matchExpressions": [{"key": "app", "operator": "In", "values": ["a", "b"]}]},
                {"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["a"]}]},
                {"matchExpressions": [{"key": "version", "operator": "Exists"}]},
                {"matchExpressions": [{"key": "version", "operator": "DoesNotExist"}]},
                {},
                None,
            )
        )

    def pod_term(self) -> Manifest:
        random = self.random
        term: Manifest = {"topologyKey": random.choice((*KEYS[:3], *KEYS))}
        selector = self.selector()
        if selector is not None:
            term["labelSelector"] = selector
            if self.chance(0.15) and "version" not in str(selector):
                term[random.choice(("matchLabelKeys", "mismatchLabelKeys"))] = ["version"]
        if self.chance(0.3):
            term["namespaces"] = random.sample(list(TEAMS), random.randint(1, 2))
        if self.chance(0.3):
            term["namespaceSelector"] = random.choice(
                (
                    {},
                    {"matchLabels": {"team": random.choice(("red", "blue"))}},
                    {"matchExpressions": [{"key": "team", "operator": "Exists"}]},
                    {"matchLabels": {"kubernetes.io/metadata.name": random.choice(list(TEAMS))}},
                )
            )
        return term

    def spread(self) -> list[Manifest]:
        random = self.random
        keys = random.sample(SPREAD_KEYS, random.choice((1, 1, 2)))
        found = []
        for key in keys:
            made: Manifest = {
                "maxSkew": random.randint(1, 2),
                "topologyKey": key,
                "whenUnsatisfiable": random.choice(("DoNotSchedule", "DoNotSchedule", "ScheduleAnyway")),
            }
            selector = self.selector()
            if selector is not None:
                made["labelSelector"] = selector
                if self.chance(0.3) and "version" not in str(selector):
                    made["matchLabelKeys"] = ["version"]
            if made["whenUnsatisfiable"] == "DoNotSchedule" and self.chance(0.4):
                made["minDomains"] = random.randint(1, 4)
            for policy in ("nodeAffinityPolicy", "nodeTaintsPolicy"):
                if self.chance(0.4):
                    made[policy] = random.choice(("Honor", "Ignore"))
            found.append(made)
        return found
