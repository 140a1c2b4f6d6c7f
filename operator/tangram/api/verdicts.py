"""What the scheduler makes of every field of a pod's spec: it reads it, need not, or holds the pod because of it.

A test compares this with the API of the pinned Kubernetes, so that a field that is new there does not mean "nothing"
here before somebody has thought about it. Paths are as in a manifest, ``[]`` after a list. What is read is named leaf
by leaf; what is irrelevant or held may be named by what it is part of.
"""

from enum import StrEnum
from typing import Final, NamedTuple

from tangram.api import names


class Verdict(StrEnum):
    """What becomes of a field."""

    READ = "read"
    IRRELEVANT = "irrelevant"
    HELD = "held"
    """A pod with the field waits, because what it asks for would not be done."""


class FieldVerdict(NamedTuple):
    """The verdict on a field, or on everything below it."""

    path: str
    verdict: Verdict
    why: str
    """What it is read for, why it does not matter, or why the pod waits."""


_PLACEMENT = "required and preferred placement"
_CLAUSE = ("key", "operator", "values")
_SELECTOR = ("matchLabels", *(f"matchExpressions[].{part}" for part in _CLAUSE))
_NODE_TERM = tuple(f"{kind}[].{part}" for kind in ("matchExpressions", "matchFields") for part in _CLAUSE)
_POD_TERM = (
    "topologyKey",
    "namespaces",
    *(f"{side}.{part}" for side in ("labelSelector", "namespaceSelector") for part in _SELECTOR),
)
_REQUIRED, _PREFERRED = (f"{kind}DuringSchedulingIgnoredDuringExecution" for kind in ("required", "preferred"))
_PODS = ("affinity.podAffinity", "affinity.podAntiAffinity")
_CONTAINERS = ("containers", "initContainers")

_READ: Final = {
    "the node that a pod has": ("nodeName",),
    "whether the pod is this scheduler's": ("schedulerName",),
    "whether others let it be scheduled": ("schedulingGates[].name",),
    "order and preemption": ("priority", "priorityClassName", "preemptionPolicy"),
    "whether a pod ends by itself (backfill)": ("restartPolicy",),
    "what a pod needs": (
        "overhead", "resources.requests", "resources.limits",
        *(f"{one}[].{part}" for one in _CONTAINERS for part in ("resources.requests", "resources.limits")),
    ),
    "which container gets which GPU": tuple(f"{one}[].name" for one in _CONTAINERS),
    "sidecars run as long as their pod": tuple(f"{one}[].restartPolicy" for one in _CONTAINERS),
    "host ports": (
        "hostNetwork",
        *(f"{one}[].ports[].{part}" for one in _CONTAINERS for part in ("hostPort", "hostIP", "protocol")),
    ),
    "node labels": (
        "nodeSelector",
        *(f"affinity.nodeAffinity.{_REQUIRED}.nodeSelectorTerms[].{part}" for part in _NODE_TERM),
        f"affinity.nodeAffinity.{_PREFERRED}[].weight",
        *(f"affinity.nodeAffinity.{_PREFERRED}[].preference.{part}" for part in _NODE_TERM),
    ),
    "taints": tuple(f"tolerations[].{part}" for part in ("key", "operator", "value", "effect")),
    "which pods are near": (
        *(f"{side}.{_REQUIRED}[].{part}" for side in _PODS for part in _POD_TERM),
        *(f"{side}.{_PREFERRED}[].weight" for side in _PODS),
        *(f"{side}.{_PREFERRED}[].podAffinityTerm.{part}" for side in _PODS for part in _POD_TERM),
    ),
    "how pods are spread": tuple(
        f"topologySpreadConstraints[].{part}"
        for part in (
            "maxSkew", "topologyKey", "whenUnsatisfiable", "minDomains", "nodeAffinityPolicy", "nodeTaintsPolicy",
            "matchLabelKeys", *(f"labelSelector.{part}" for part in _SELECTOR),
        )
    ),
    "which nodes can reach its volumes and have room for them": (
        "volumes[].name", "volumes[].persistentVolumeClaim.claimName",
    ),
}  # fmt: skip

_IRRELEVANT: Final = {
    "carried out on the node, whichever it is": (
        "activeDeadlineSeconds", "automountServiceAccountToken", "dnsConfig", "dnsPolicy", "enableServiceLinks",
        "hostAliases", "hostIPC", "hostPID", "hostUsers", "hostname", "hostnameOverride", "imagePullSecrets",
        "readinessGates", "securityContext", "serviceAccount", "serviceAccountName", "setHostnameAsFQDN",
        "shareProcessNamespace", "subdomain", "terminationGracePeriodSeconds", "evictionResponders",
        *(
            f"{one}[].{part}"
            for one in _CONTAINERS
            for part in (
                "args", "command", "env", "envFrom", "imagePullPolicy", "lifecycle", "livenessProbe", "readinessProbe",
                "startupProbe", "resizePolicy", "restartPolicyRules", "securityContext", "stdin", "stdinOnce",
                "terminationMessagePath", "terminationMessagePolicy", "tty", "volumeDevices", "volumeMounts",
                "workingDir", "ports[].name", "ports[].containerPort",
            )
        ),
        "volumes[].persistentVolumeClaim.readOnly",
    ),
    "no node is preferred for the images that it has": tuple(f"{one}[].image" for one in _CONTAINERS),
    "debug containers get no resources of their own": ("ephemeralContainers",),
    "the kubelet checks it; kube-scheduler does not look at it either": ("os",),
    "the API server has set `overhead`, `nodeSelector` and `tolerations` by it": ("runtimeClassName",),
    "the API server has merged it into the label selector": tuple(
        f"{side}.{term}.{part}"
        for side in _PODS
        for term in (f"{_REQUIRED}[]", f"{_PREFERRED}[].podAffinityTerm")
        for part in ("matchLabelKeys", "mismatchLabelKeys")
    ),
    "it names one of `resourceClaims`": (
        "resources.claims", *(f"{one}[].resources.claims" for one in _CONTAINERS),
    ),
    "how long a pod stays once a node has the taint": ("tolerations[].tolerationSeconds",),
    "the volume claim that is made of it is read": ("volumes[].ephemeral.volumeClaimTemplate",),
    "the same on every node, or made on it": tuple(
        f"volumes[].{source}"
        for source in (
            "azureFile", "cephfs", "configMap", "csi", "downwardAPI", "emptyDir", "fc", "flexVolume", "flocker",
            "gitRepo", "glusterfs", "hostPath", "image", "nfs", "photonPersistentDisk", "portworxVolume", "projected",
            "quobyte", "scaleIO", "secret", "storageos",
        )
    ),
    "a disk that is named in the pod itself: that two pods may not mount it is not looked at (decision 005)": tuple(
        f"volumes[].{source}"
        for source in (
            "awsElasticBlockStore", "azureDisk", "cinder", "gcePersistentDisk", "iscsi", "rbd", "vsphereVolume",
        )
    ),
}  # fmt: skip

_HELD: Final = {
    f"resource claims (DRA) are not allocated; ask for {names.GPU_RESOURCE} or {names.FRACTION_RESOURCE} instead": (
        "resourceClaims",
    ),
    f"PodGroups are not read; use the labels {names.GANG} and {names.GANG_MIN}": ("schedulingGroup",),
}


def _verdicts() -> tuple[FieldVerdict, ...]:
    tables = ((_READ, Verdict.READ), (_IRRELEVANT, Verdict.IRRELEVANT), (_HELD, Verdict.HELD))
    return tuple(
        FieldVerdict(path, verdict, why) for table, verdict in tables for why, paths in table.items() for path in paths
    )


VERDICTS: Final = _verdicts()
"""The verdict on every field of a pod's spec."""
HELD: Final = {one.path: f"spec.{one.path}: {one.why}" for one in VERDICTS if one.verdict is Verdict.HELD}
"""Field -> the sentence that a pod with it is told."""


def verdict_on(path: str) -> FieldVerdict | None:
    """The verdict on a leaf field; None: nobody has given one."""
    for one in VERDICTS:
        if path == one.path or (one.verdict is not Verdict.READ and path.startswith((f"{one.path}.", f"{one.path}["))):
            return one
    return None
