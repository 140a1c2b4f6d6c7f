"""Where things are in the Kubernetes API: resources as values, and the paths of collections and objects."""

from dataclasses import dataclass
from urllib.parse import quote

from tangram import errors
from tangram.api import names


@dataclass(frozen=True, slots=True)
class Resource:
    """One resource of the API: ``group`` is empty for the core group, ``plural`` is the word in the path."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """``group/version``, or ``version`` in the core group, as manifests write it."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def collection(self, namespace: str = "") -> str:
        """Path of all objects, or of those in one namespace."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        if self.namespaced and namespace:
            return f"{root}/namespaces/{quote(namespace, safe='')}/{self.plural}"
        return f"{root}/{self.plural}"

    def path(self, name: str, namespace: str = "", subresource: str = "") -> str:
        """Path of one object or of its subresource.

        Raises InvalidInput when the name is empty or the namespace of a namespaced object is missing: the path would
        then mean a whole collection.
        """
        if not name:
            raise errors.InvalidInput(self.kind, "name", name, "the name of an object")
        if self.namespaced and not namespace:
            raise errors.InvalidInput(f"{self.kind} {name}", "namespace", namespace, "the namespace of the object")
        base = f"{self.collection(namespace)}/{quote(name, safe=':')}"
        return f"{base}/{subresource}" if subresource else base


def ours(plural: str, kind: str, *, namespaced: bool = True) -> Resource:
    """A resource of tangram's own group."""
    return Resource(names.GROUP, names.VERSION, plural, kind, namespaced)


PODS = Resource("", "v1", "pods", "Pod")
NODES = Resource("", "v1", "nodes", "Node", namespaced=False)
NAMESPACES = Resource("", "v1", "namespaces", "Namespace", namespaced=False)
SERVICES = Resource("", "v1", "services", "Service")
CONFIG_MAPS = Resource("", "v1", "configmaps", "ConfigMap")
PERSISTENT_VOLUMES = Resource("", "v1", "persistentvolumes", "PersistentVolume", namespaced=False)
PERSISTENT_VOLUME_CLAIMS = Resource("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim")
STORAGE_CLASSES = Resource("storage.k8s.io", "v1", "storageclasses", "StorageClass", namespaced=False)
CSI_NODES = Resource("storage.k8s.io", "v1", "csinodes", "CSINode", namespaced=False)
EVENTS = Resource("events.k8s.io", "v1", "events", "Event")
LEASES = Resource("coordination.k8s.io", "v1", "leases", "Lease")
POD_DISRUPTION_BUDGETS = Resource("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget")
PRIORITY_CLASSES = Resource("scheduling.k8s.io", "v1", "priorityclasses", "PriorityClass", namespaced=False)
JOBS = Resource("batch", "v1", "jobs", "Job")
DEPLOYMENTS = Resource("apps", "v1", "deployments", "Deployment")
STATEFUL_SETS = Resource("apps", "v1", "statefulsets", "StatefulSet")
HORIZONTAL_POD_AUTOSCALERS = Resource("autoscaling", "v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler")
ENDPOINT_SLICES = Resource("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice")

HYBRID_POLICIES = ours("hybridpolicies", "HybridPolicy", namespaced=False)
TRAINING_JOBS = ours("trainingjobs", "TrainingJob")
INFERENCE_SERVICES = ours("inferenceservices", "InferenceService")
GPU_NODES = ours("gpunodes", "GPUNode", namespaced=False)

RESOURCES: tuple[Resource, ...] = (
    PODS,
    NODES,
    NAMESPACES,
    SERVICES,
    CONFIG_MAPS,
    PERSISTENT_VOLUMES,
    PERSISTENT_VOLUME_CLAIMS,
    STORAGE_CLASSES,
    CSI_NODES,
    EVENTS,
    LEASES,
    POD_DISRUPTION_BUDGETS,
    PRIORITY_CLASSES,
    JOBS,
    DEPLOYMENTS,
    STATEFUL_SETS,
    HORIZONTAL_POD_AUTOSCALERS,
    ENDPOINT_SLICES,
    HYBRID_POLICIES,
    TRAINING_JOBS,
    INFERENCE_SERVICES,
    GPU_NODES,
)


def resource_of(api_version: str, kind: str) -> Resource:
    """The resource that a manifest's ``apiVersion`` and ``kind`` (or plural) mean. Raises InvalidInput."""
    for resource in RESOURCES:
        if resource.api_version == api_version and kind in (resource.kind, resource.plural):
            return resource
    known = ", ".join(sorted(f"{r.api_version} {r.kind}" for r in RESOURCES))
    raise errors.InvalidInput("object", "apiVersion and kind", f"{api_version} {kind}", known)
