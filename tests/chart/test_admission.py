"""The rules that the API server keeps: what a tenant is told, and that the scheduler itself is not hindered."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.api.samples import sample
from tests.controllers.builders import job_object, role, service_object
from tests.waiting import eventually

from tangram.api import names
from tangram.api.acts import KEYS
from tangram.api.inference import parse_inference_service
from tangram.api.training import parse_training_job
from tangram.controllers import manifests

CHART = Path(__file__).parents[2] / "charts" / "tangram"
FRACTION = "scheduling.example.com/gpu"
GPUS = "scheduling.example.com/gpus"
SCHEDULER = "system:serviceaccount:tangram-system:tangram-scheduler"
TENANT = "tenant"
DEVICES = json.dumps({"main": [{"id": "GPU-a", "share": 30, "memoryMiB": 0}]})


@pytest.fixture(scope="module")
def cluster(release) -> Iterator[Any]:
    """The release, with a tenant whom RBAC lets do anything to pods: only admission stands in his way."""
    release.kubectl(
        "create",
        "clusterrole",
        "tenant-pods",
        "--verb=*",
        "--resource=pods,pods/status,pods/binding,pods/ephemeralcontainers,pods/resize,bindings",
    )
    release.kubectl("create", "clusterrolebinding", TENANT, "--clusterrole=tenant-pods", f"--user={TENANT}")
    release.kubectl("create", "namespace", "lab")
    wait_until_in_force(release)
    yield release
    release.kubectl("delete", "clusterrolebinding,clusterrole", "--ignore-not-found", TENANT, "tenant-pods")


def wait_until_in_force(release) -> None:
    """New rules reach the API server's admission a moment after they are stored."""
    rules = [
        pod(metadata={"annotations": {GPUS: "{}"}}),
        pod(asking("130")),
        pod(env("NVIDIA_VISIBLE_DEVICES", "all")),
        pod(metadata={"labels": {"scheduling.example.com/queue": ""}}),
        pod(metadata={"annotations": {"devices.nri.io": ""}}),
    ]
    eventually(lambda: all(create(release, TENANT, rule).returncode for rule in rules), "the policies are in force")
    eventually(lambda: "void" in variables_of(release, {"name": "m", "image": "x"}), "what is set is in force")


def asking(limit: str | None, request: str | None = None, name: str = "main", **more: Any) -> dict[str, Any]:
    """A container that asks for a fraction."""
    resources = {"limits": {FRACTION: limit} if limit else {}} | ({"requests": {FRACTION: request}} if request else {})
    return {"name": name, "image": "example", "resources": resources} | more


def env(name: str, value: str | None = None, **source: Any) -> dict[str, Any]:
    """A container that asks for a fraction and sets a variable."""
    return asking(
        "30", env=[{"name": name, "value": value} if value is not None else {"name": name, "valueFrom": source}]
    )


def all_of(prefix: str | None = None, kind: str = "configMapRef") -> dict[str, Any]:
    """The source of all variables that a ConfigMap or Secret holds."""
    return {kind: {"name": "a"}} | ({"prefix": prefix} if prefix is not None else {})


def pod(*containers: dict[str, Any], metadata: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "example", "namespace": "lab"} | (metadata or {}),
        "spec": {"schedulerName": "tangram", "containers": list(containers) or [{"name": "main", "image": "example"}]}
        | spec,
    }


def create(cluster, user: str, obj: dict[str, Any], *, keep: bool = False):
    dry_run = () if keep else ("--dry-run=server",)
    return cluster.kubectl("create", "--as", user, *dry_run, "-f", "-", input=json.dumps(obj), check=False)


def annotated(**annotations: str) -> dict[str, Any]:
    return {
        "annotations": {f"scheduling.example.com/{key.replace('_', '-')}": value for key, value in annotations.items()}
    }


def labelled(**labels: str) -> dict[str, Any]:
    return {"labels": {f"scheduling.example.com/{key.replace('_', '-')}": value for key, value in labels.items()}}


def host(path: str) -> dict[str, Any]:
    return pod(volumes=[{"name": "host", "hostPath": {"path": path}}])


MEMORY = {"name": "shm", "emptyDir": {"medium": "Memory"}}


def shm(share: str | None, path: str = "/dev/shm") -> dict[str, Any]:
    """A container with a volume of its own at a path."""
    return asking(share, volumeMounts=[{"name": "shm", "mountPath": path}])


LIMIT = f"spec.containers[main].resources.limits[{FRACTION}]: "
SHARES = "allowed are 1 to 100 (percent of one GPU) and multiples of 100 up to 6400 (whole GPUs)"
VARIABLES = "allowed is to leave them out, or the value none or void"
UNSEEN = "allowed are a prefix such as APP_, single keys by env[].valueFrom, and a volume"
FILES = f"allowed is to ask for nvidia.com/gpu or {FRACTION} in resources.limits"

DENIED = {
    "0 hundredths": (pod(asking("0")), [LIMIT + "0 is not", SHARES]),
    "130 hundredths": (pod(asking("130")), [LIMIT + "130 is not", SHARES]),
    "250 hundredths": (pod(asking("250")), [LIMIT + "250 is not", SHARES]),
    "a billion GPUs": (pod(asking("1e11")), [LIMIT + "100e9 is not", SHARES]),
    "1e18": (pod(asking("1e18")), [LIMIT + "1e18 is not", SHARES]),
    "a part of a hundredth": (pod(asking("0.5")), ["500m", "must be an integer"]),
    "less than nothing": (pod(asking("-1")), ["-1", "must be greater than or equal to 0"]),
    "not a number": (pod(asking("NaN")), ["quantities must match the regular expression"]),
    "infinity": (pod(asking("Inf")), ["quantities must match the regular expression"]),
    "request below limit": (pod(asking("30", "20")), ["20", f"must be equal to {FRACTION} limit of 30"]),
    "request without limit": (pod(asking(None, "20")), ["Limit must be set for non overcommitable resources"]),
    "130 in an init container": (
        pod(initContainers=[asking("130", name="load")]),
        [f"spec.containers[load].resources.limits[{FRACTION}]: 130 is not", SHARES],
    ),
    "130 in a second container": (
        pod(asking("30"), asking("130", name="second")),
        [f"spec.containers[second].resources.limits[{FRACTION}]: 130 is not"],
    ),
    "beside whole GPUs": (
        pod({"name": "main", "image": "example", "resources": {"limits": {FRACTION: "30", "nvidia.com/gpu": "1"}}}),
        ["spec.containers[main].resources", "stands beside a resource of whole devices", "allowed is one of them"],
    ),
    "another scheduler": (
        pod(asking("30"), schedulerName="default-scheduler"),
        ["spec.schedulerName: default-scheduler does not know", "allowed is tangram"],
    ),
    "a node of one's own choice": (
        pod(asking("30"), nodeName="node-1"),
        ["spec.nodeName: node-1 was chosen without the scheduler", "allowed is to leave it out"],
    ),
    "a node of one's own choice for whole GPUs": (
        pod({"name": "main", "image": "example", "resources": {"limits": {"nvidia.com/gpu": "1"}}}, nodeName="node-1"),
        ["spec.nodeName: node-1 was chosen without the scheduler", "allowed is to leave it out"],
    ),
    "all devices by variable": (pod(env("NVIDIA_VISIBLE_DEVICES", "all")), ["spec.containers[main].env", VARIABLES]),
    "all devices by reference": (
        pod(env("NVIDIA_VISIBLE_DEVICES", configMapKeyRef={"name": "a", "key": "b"})),
        ["spec.containers[main].env", VARIABLES],
    ),
    "a larger share of MPS": (
        pod(env("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "100")),
        ["spec.containers[main].env", VARIABLES],
    ),
    "all devices in an init container": (
        pod(
            asking("30"),
            initContainers=[
                {"name": "load", "image": "example", "env": [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"}]}
            ],
        ),
        ["spec.containers[load].env", VARIABLES],
    ),
    "all devices in a pod that asks for none": (
        pod({"name": "main", "image": "example", "env": [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"}]}),
        ["spec.containers[main].env", VARIABLES],
    ),
    "variables that nobody sees": (pod(asking("30", envFrom=[all_of()])), ["spec.containers[main].envFrom", UNSEEN]),
    "variables of a Secret, after harmless ones": (
        pod(asking("30", envFrom=[all_of("APP_"), all_of(kind="secretRef")])),
        ["spec.containers[main].envFrom", UNSEEN],
    ),
    "an empty prefix": (pod(asking("30", envFrom=[all_of("")])), ["spec.containers[main].envFrom", UNSEEN]),
    "a prefix with which a variable begins": (
        pod(asking("30", envFrom=[all_of("NVIDIA_VIS")])),
        ["spec.containers[main].envFrom", UNSEEN],
    ),
    "a prefix that begins as MPS's variables do": (
        pod(asking("30", envFrom=[all_of("CUDA_MPS_ACTIVE_")])),
        ["spec.containers[main].envFrom", UNSEEN],
    ),
    "variables that nobody sees in an init container": (
        pod(asking("30"), initContainers=[asking("30", name="load", envFrom=[all_of()])]),
        ["spec.containers[load].envFrom", UNSEEN],
    ),
    "a device file": (host("/dev/nvidia0"), ["spec.volumes[host].hostPath: /dev/nvidia0 holds", FILES]),
    "all device files": (host("/dev"), ["spec.volumes[host].hostPath: /dev holds", FILES]),
    "the whole host": (host("/"), ["spec.volumes[host].hostPath: / holds", FILES]),
    "a device file in disguise": (host("/./dev//nvidiactl"), ["spec.volumes[host].hostPath", FILES]),
    "all MPS daemons": (host("/run/tangram/mps"), ["spec.volumes[host].hostPath: /run/tangram/mps holds", FILES]),
    "an MPS daemon in disguise": (host("/var//run/./tangram"), ["spec.volumes[host].hostPath", FILES]),
    "the folder that they are in": (host("/run/"), ["spec.volumes[host].hostPath: /run/ holds", FILES]),
    **{
        f"a way through {path}": (host(path), [f"hostPath: {path} holds the device files", FILES])
        for path in (
            "/proc/1/root",
            "/proc/1/root/dev",
            "/proc//self/./root",
            "/run/nvidia/driver",
            "/run/nvidia-persistenced",
            "/var/lib/kubelet/device-plugins",
            "/var/lib/kubelet/device-plugins/kubelet.sock",
            "/var/lib/kubelet",
            "/var/lib/kubelet/pod-resources/kubelet.sock",
            "/var/lib",
            "/var",
            "/run/containerd/containerd.sock",
            "/run/k3s/containerd/containerd.sock",
            "/var/run/docker.sock",
            "/run/crio/crio.sock",
            "/var/run/nri",
            "/var/snap/microk8s/common/run/containerd.sock",
            "/var/run/cri-dockerd.sock",
            "/etc/cdi",
            "/var/run/cdi",
        )
    },
    **{
        f"a way through {path} in a pod of another scheduler": (
            host(path) | {"spec": host(path)["spec"] | {"schedulerName": "default-scheduler"}},
            [f"hostPath: {path} holds the device files", FILES],
        )
        for path in (
            "/dev/nvidia0",
            "/run/nvidia/driver",
            "/var/lib/kubelet/device-plugins",
            "/run/containerd/containerd.sock",
        )
    },
    **{
        f"devices by {key}": (
            pod(schedulerName="default-scheduler", metadata={"annotations": {key: "nvidia.com/gpu=all"}}),
            [f"metadata.annotations[{key}]: names devices or host paths to a plugin of the container runtime", FILES],
        )
        for key in (
            "nvidia.cdi.k8s.io/container.main",
            "nvidia.cdi.k8s.io/pod",
            "cdi.k8s.io/gpu",
            "devices.nri.io",
            "devices.nri.io/container.main",
            "mounts.nri.io/pod",
            "cdi.nri.io/pod",
            "cdi-devices.noderesource.dev/pod",
        )
    },
    "all devices in a pod of another scheduler": (
        pod(
            {"name": "m", "image": "x", "env": [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"}]},
            schedulerName="default-scheduler",
        ),
        ["spec.containers[m].env", VARIABLES],
    ),
    "a volume over MPS's shared memory": (
        pod(shm("30"), volumes=[MEMORY]),
        ["spec.containers[main].volumeMounts: a volume at /dev/shm hides", "allowed is to leave it out"],
    ),
    "a volume over MPS's shared memory in disguise": (
        pod(asking("30"), initContainers=[shm("50", "//dev/./shm/") | {"name": "load"}], volumes=[MEMORY]),
        ["spec.containers[load].volumeMounts: a volume at /dev/shm hides"],
    ),
    "all devices by a mount": (
        pod(
            asking("30", volumeMounts=[{"name": "a", "mountPath": "/var/run/nvidia-container-devices/all"}]),
            volumes=[{"name": "a", "hostPath": {"path": "/dev/null"}}],
        ),
        ["spec.containers[main].volumeMounts", FILES],
    ),
    "all devices by a mount in a pod that asks for none": (
        pod(
            {"name": "m", "image": "x"}
            | {"volumeMounts": [{"name": "a", "mountPath": "//run/nvidia-container-devices/cdi/nvidia.com/gpu/all"}]},
            volumes=[{"name": "a", "hostPath": {"path": "/dev/null"}}],
        ),
        ["spec.containers[m].volumeMounts", FILES],
    ),
    "gang of 0": (
        pod(metadata=annotated(gang_min="0")),
        ["annotations[scheduling.example.com/gang-min]", '"0" is not', "from 1 to 100000"],
    ),
    "a misspelt resource": (
        pod({"name": "m", "image": "x", "resources": {"limits": {"scheduling.example.com/gpus": "30"}}}),
        ["scheduling.example.com/gpus is no resource that tangram knows", "allowed is scheduling.example.com/gpu"],
    ),
    "attempt of 30 digits": (
        pod(metadata=annotated(attempt="9" * 30)),
        ["annotations[scheduling.example.com/attempt]", "is not the number of an attempt"],
    ),
    "attempt of -1": (pod(metadata=annotated(attempt="-1")), ['"-1" is not the number of an attempt']),
    "gang of -2": (pod(metadata=annotated(gang_min="-2")), ['"-2" is not a number of pods', "from 1 to 100000"]),
    "gang of 100001": (pod(metadata=annotated(gang_min="100001")), ['"100001" is not', "from 1 to 100000"]),
    "gang with a role of 100001": (
        pod(metadata=annotated(gang_role_min="worker=100001")),
        ['"worker=100001" are no minimums of roles'],
    ),
    "gang of 1.5": (pod(metadata=annotated(gang_min="1.5")), ['"1.5" is not a number of pods']),
    "gang of four": (pod(metadata=annotated(gang_min="four")), ['"four" is not a number of pods']),
    "gang without a name": (pod(metadata=labelled(gang="")), ["labels[scheduling.example.com/gang]", "names no gang"]),
    "queue in capitals": (
        pod(metadata=labelled(queue="Research")),
        ["labels[scheduling.example.com/queue]", '"Research" cannot be', "lower case"],
    ),
    "queue without a name": (pod(metadata=labelled(queue="")), ['"" cannot be the name of a queue', "1 to 63"]),
    "class with an underscore": (
        pod(metadata=labelled(priority_class="gpu_intensive")),
        ["labels[scheduling.example.com/priority-class]", '"gpu_intensive" cannot be'],
    ),
    "memory in words": (
        pod(metadata=annotated(gpu_memory="lots")),
        ["annotations[scheduling.example.com/gpu-memory]", '"lots" is not', "such as 8Gi"],
    ),
    "negative memory": (pod(metadata=annotated(gpu_memory="-8Gi")), ['"-8Gi" is not an amount of memory']),
    "duration in words": (
        pod(metadata=annotated(estimated_duration="soon")),
        ["annotations[scheduling.example.com/estimated-duration]", '"soon" is not', "such as 90s"],
    ),
    "a mode of isolation that is none": (
        pod(metadata=annotated(gpu_isolation="mps|walls")),
        ["annotations[scheduling.example.com/gpu-isolation]", '"mps|walls" names no modes', "such as mps|time-slice"],
    ),
    "roles without minimums": (
        pod(metadata=annotated(gang_role_min="launcher,worker=4")),
        ["annotations[scheduling.example.com/gang-role-min]", '"launcher,worker=4" are no', "launcher=1,worker=4"],
    ),
    "gang timeout in words": (
        pod(metadata=annotated(gang_timeout="soon")),
        ["annotations[scheduling.example.com/gang-timeout]", '"soon" is not', "0s for never"],
    ),
    "devices taken": (
        pod(metadata=annotated(gpus=DEVICES)),
        [f"annotations[{GPUS}]: reserved: only {SCHEDULER} may", "tenant may not set it", "allowed is to leave it out"],
    ),
    "a misspelt annotation": (
        pod(metadata=annotated(gang_minn="2")),
        ["metadata.annotations: scheduling.example.com/gang-minn is no annotation that tangram knows", "gang-min"],
    ),
    "a misspelt label": (
        pod(metadata=labelled(que="a")),
        ["metadata.labels: scheduling.example.com/que is no label that tangram knows", "queue"],
    ),
    "devices taken by nothing": (pod(metadata=annotated(gpus="")), [f"annotations[{GPUS}]: reserved", "leave it out"]),
}

ALLOWED = {
    **{
        f"what drivers of storage and networks and monitors mount: {path}": pod(
            volumes=[{"name": "host", "hostPath": {"path": path}}], schedulerName="default-scheduler"
        )
        for path in ("/", "/dev", "/run", "/var/lib/kubelet", "/var/lib/kubelet/pods", "/sys")
    },
    "a plain pod": pod(),
    "1 hundredth": pod(asking("1")),
    "30 hundredths": pod(asking("30")),
    "request equal to limit": pod(asking("30", "30")),
    "a whole GPU": pod(asking("100")),
    "four whole GPUs": pod(asking("400")),
    "a thousand hundredths": pod(asking("1k")),
    "two containers": pod(asking("30"), asking("70", name="second")),
    "whole GPUs by the vendor's resource": pod(
        {"name": "m", "image": "x", "resources": {"limits": {"nvidia.com/gpu": "8"}}}
    ),
    "a node of one's own choice without GPUs": pod(nodeName="node-1"),
    "whole GPUs on a node that another scheduler chose": pod(
        {"name": "m", "image": "x", "resources": {"limits": {"nvidia.com/gpu": "1"}}},
        schedulerName="default-scheduler",
        nodeName="node-1",
    ),
    "no devices, said openly": pod(
        asking("30"), {"name": "side", "image": "x", "env": [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"}]}
    ),
    "variables with a prefix": pod(asking("30", envFrom=[all_of("APP_"), all_of("CUDA_VISIBLE", "secretRef")])),
    "variables one by one": pod(env("TOKEN", secretKeyRef={"name": "a", "key": "b"})),
    "variables that nobody sees, without a share": pod(
        asking("30"), {"name": "side", "image": "x", "envFrom": [all_of()]}
    ),
    "variables that nobody sees, with whole GPUs of the vendor's": pod(
        {"name": "m", "image": "x", "envFrom": [all_of()], "resources": {"limits": {"nvidia.com/gpu": "8"}}}
    ),
    "any other variable": pod(env("CUDA_VISIBLE_DEVICES", "0")),
    "5,000 variables": pod(asking("30", env=[{"name": f"A{i}", "value": "b"} for i in range(5000)])),
    "the files of the network card": host("/dev/infiniband"),
    "another folder of the node's": host("/run/tangle"),
    "a gang": pod(
        metadata={
            **annotated(gang_min="4"),
            **labelled(gang="train-1", queue="research.vision", priority_class="gpu-intensive"),
        }
    ),
    "a gang of roles": pod(
        metadata={**annotated(gang_role_min="launcher=1,worker=4", gang_timeout="0s"), **labelled(gang="train-1")}
    ),
    "one mode of isolation": pod(asking("30"), metadata=annotated(gpu_isolation="mps")),
    "several modes of isolation": pod(asking("100"), metadata=annotated(gpu_isolation="exclusive, mig | mps")),
    "memory and duration": pod(asking("30"), metadata=annotated(gpu_memory="8Gi", estimated_duration="2h30m")),
    "a pod of another scheduler": pod(schedulerName="default-scheduler"),
    "the kubelet's folder of another plugin": host("/var/lib/kubelet/plugins/csi.example.com"),
    "a folder of the node's data": host("/var/log"),
    "what the kernel says of the node": host("/proc"),
    "a socket of somebody else": host("/var/lib/app/app.sock"),
    "annotations of others": pod(metadata={"annotations": {"example.com/devices": "a", "nri.io/devices": "b"}}),
    "a volume at /dev/shm for whole GPUs": pod(shm("100"), volumes=[MEMORY]),
    "a volume at /dev/shm without GPUs": pod(shm(None), volumes=[MEMORY]),
    "a volume below /dev/shm": pod(shm("30", "/dev/shm/mine"), volumes=[MEMORY]),
}


@pytest.mark.parametrize("case", DENIED)
def test_denied(cluster, case):
    obj, words = DENIED[case]
    answer = create(cluster, TENANT, obj)
    assert answer.returncode != 0, answer.stdout
    for word in words:
        assert word in answer.stderr


def variables_of(cluster, container: dict[str, Any], **spec: Any) -> str:
    """What NVIDIA_VISIBLE_DEVICES is in a container once it is created, for all of its pod's together."""
    made = pod(container, **spec)
    answer = cluster.kubectl(
        "create", "--as", TENANT, "--dry-run=server", "-o", "json", "-f", "-", input=json.dumps(made), check=False
    )
    assert answer.returncode == 0, answer.stderr
    stored = json.loads(answer.stdout)["spec"]
    return " ".join(
        one.get("value", "?")
        for each in (*stored["containers"], *stored.get("initContainers", ()))
        for one in each.get("env", ())
        if one["name"] == "NVIDIA_VISIBLE_DEVICES"
    )


PLAIN = {"name": "main", "image": "example"}


@pytest.mark.parametrize(
    ("container", "spec", "variables"),
    [
        (PLAIN, {}, "void"),
        (PLAIN, {"schedulerName": "default-scheduler"}, "void"),
        (PLAIN | {"env": [{"name": "A", "value": "b"}, {"name": "A", "value": "c"}]}, {}, "void"),
        (PLAIN | {"env": [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "none"}]}, {}, "none"),
        (PLAIN, {"initContainers": [PLAIN | {"name": "a"}, asking("30", name="b")]}, "void void"),
        (asking("30"), {}, ""),
        (asking("30"), {"initContainers": [PLAIN | {"name": "a"}]}, "void"),
        (PLAIN | {"resources": {"limits": {"nvidia.com/gpu": "1"}}}, {}, ""),
        (PLAIN | {"resources": {"limits": {"nvidia.com/mig-1g.10gb": "1"}}}, {}, ""),
        (PLAIN | {"resources": {"limits": {"amd.com/gpu": "1"}}}, {}, ""),
    ],
)
def test_fault_21_the_variable_of_an_image_opens_nothing_to_a_container_that_asks_for_nothing(
    cluster, container, spec, variables
):
    assert variables_of(cluster, container, **spec) == variables


def test_what_is_set_and_refused_leaves_drivers_alone(cluster):
    """Namespaces of drivers by their name, those that may run privileged pods by their label."""
    reaching = pod(
        {"name": "m", "image": "x", "env": [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"}]},
        volumes=[{"name": "host", "hostPath": {"path": "/run/nvidia"}}],
        schedulerName="default-scheduler",
    )
    for name, label in (("gpu-operator", ""), ("watchers", "pod-security.kubernetes.io/enforce=privileged")):
        cluster.kubectl("create", "namespace", name, check=False)
        if label:
            cluster.kubectl("label", "namespace", name, label)
        reaching["metadata"] = {"name": "example", "namespace": name}
        eventually(lambda: create(cluster, TENANT, reaching).returncode == 0, f"namespace {name} is left alone")


def test_a_debugging_container_gets_no_gpu_by_its_image(cluster, waiting):
    def debug(name: str) -> dict[str, Any]:
        patch = json.dumps({"spec": {"ephemeralContainers": [{"name": name, "image": "example"}]}})
        what = ("patch", "pod", waiting, "-n", "lab", "--as", TENANT, "--subresource=ephemeralcontainers")
        answer = cluster.kubectl(*what, "-p", patch, "-o", "json", check=False)
        assert answer.returncode == 0, answer.stderr
        return {one["name"]: one.get("env") for one in json.loads(answer.stdout)["spec"]["ephemeralContainers"]}

    void = [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"}]
    assert debug("one") == {"one": void}
    assert debug("two") == {"one": void, "two": void}


def test_devices_are_not_named_by_an_annotation_that_comes_later(cluster, waiting):
    annotate = ("annotate", "pod", waiting, "-n", "lab", "--as", TENANT)
    answer = cluster.kubectl(*annotate, "nvidia.cdi.k8s.io/container.main=nvidia.com/gpu=all", check=False)
    assert answer.returncode != 0
    assert "names devices or host paths to a plugin of the container runtime" in answer.stderr
    cluster.kubectl(*annotate, "example.com/note=a")
    binding = bind(cluster, TENANT, waiting, BINDING_PATHS[0], {"devices.nri.io/pod": "[]"})
    assert binding.returncode != 0
    assert "names devices or host paths" in binding.stderr


@pytest.mark.parametrize("case", ALLOWED)
def test_allowed(cluster, case):
    answer = create(cluster, TENANT, ALLOWED[case])
    assert answer.returncode == 0, answer.stderr


@pytest.fixture
def waiting(cluster) -> Iterator[str]:
    """A pod of the tenant that waits for its devices."""
    create(cluster, TENANT, pod(asking("30"), metadata={"name": "waiting", "namespace": "lab"}), keep=True)
    yield "waiting"
    cluster.kubectl("delete", "pod", "waiting", "-n", "lab", "--force", "--grace-period=0", check=False)


def bind(cluster, user: str, name: str, path: str, annotations: dict[str, str]):
    binding = {
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {"name": name, "namespace": "lab", "annotations": annotations},
        "target": {"apiVersion": "v1", "kind": "Node", "name": "node-1"},
    }
    return cluster.kubectl("create", "--as", user, "--raw", path, "-f", "-", input=json.dumps(binding), check=False)


BINDING_PATHS = ("/api/v1/namespaces/lab/pods/waiting/binding", "/api/v1/namespaces/lab/bindings")


@pytest.mark.parametrize("path", BINDING_PATHS)
def test_fault_22_nobody_else_records_devices_by_binding(cluster, waiting, path):
    """A Binding's annotations become the pod's, so whoever may bind could write the record as well."""
    answer = bind(cluster, TENANT, waiting, path, {GPUS: DEVICES})
    assert answer.returncode != 0
    assert f"annotations[{GPUS}]: reserved: only {SCHEDULER} may write it, and tenant may not set it" in answer.stderr
    assert cluster.kubectl("get", "pod", waiting, "-n", "lab", "-o", "jsonpath={.spec.nodeName}").stdout == ""


def test_other_schedulers_bind_as_ever(cluster, waiting):
    assert bind(cluster, TENANT, waiting, BINDING_PATHS[0], {}).returncode == 0


def test_the_scheduler_records_devices_and_nobody_changes_them(cluster, waiting):
    """The scheduler has its own role and nothing more; the tenant tries every way that writes a pod's metadata."""
    answer = bind(cluster, SCHEDULER, waiting, BINDING_PATHS[0], {GPUS: DEVICES})
    assert answer.returncode == 0, answer.stderr
    read = ("get", "pod", waiting, "-n", "lab", "-o", "json")
    assert json.loads(cluster.kubectl(*read).stdout)["metadata"]["annotations"] == {GPUS: DEVICES}

    other = json.dumps({"metadata": {"annotations": {GPUS: "{}"}}})
    none = json.dumps({"metadata": {"annotations": {GPUS: None}}})
    for patch in (other, none):
        for subresource in ((), ("--subresource=status",)):
            answer = cluster.kubectl(
                "patch",
                "pod",
                waiting,
                "-n",
                "lab",
                "--as",
                TENANT,
                *subresource,
                "--type=merge",
                "-p",
                patch,
                check=False,
            )
            assert "tenant may not change it; allowed is to leave it as it is" in answer.stderr
    assert json.loads(cluster.kubectl(*read).stdout)["metadata"]["annotations"] == {GPUS: DEVICES}

    cluster.kubectl("label", "pod", waiting, "-n", "lab", "--as", TENANT, "team=vision")


def test_a_pod_that_has_a_node_stays_in_its_queue_and_class(cluster):
    labels = labelled(queue="interns", priority_class="training")["labels"]
    made = pod(metadata={"name": "waiting", "namespace": "lab", "labels": labels})
    assert create(cluster, TENANT, made, keep=True).returncode == 0
    try:
        moved = relabel(cluster, "queue=research")
        assert moved.returncode == 0, moved.stderr
        assert bind(cluster, SCHEDULER, "waiting", BINDING_PATHS[0], {}).returncode == 0
        for change in ("queue=escape", "queue-", "priority-class=gold"):
            refused = relabel(cluster, change)
            assert refused.returncode != 0
            assert "of a pod that has a node are not allowed to change" in refused.stderr
        assert relabel(cluster, "revision=v2").returncode == 0
    finally:
        cluster.kubectl("delete", "pod", "waiting", "-n", "lab", "--force", "--grace-period=0", check=False)


def relabel(cluster, change: str):
    """The tenant changes a label of the scheduler's on the pod."""
    arguments = ("label", "pod", "waiting", "-n", "lab", "--overwrite", f"scheduling.example.com/{change}")
    return cluster.kubectl(*arguments, "--as", TENANT, check=False)


def test_a_debugging_container_cannot_reach_for_devices(cluster, waiting):
    def debug(*variables: dict[str, str]):
        container = {"name": "debug", "image": "example", "env": list(variables)}
        patch = json.dumps({"spec": {"ephemeralContainers": [container]}})
        return cluster.kubectl(
            "patch",
            "pod",
            waiting,
            "-n",
            "lab",
            "--as",
            TENANT,
            "--subresource=ephemeralcontainers",
            "-p",
            patch,
            check=False,
        )

    answer = debug({"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"})
    assert "spec.containers[debug].env" in answer.stderr
    assert VARIABLES in answer.stderr
    assert debug().returncode == 0


def test_all_variables_that_nobody_sees_can_be_refused(cluster, render):
    values = {"admission": {"devices": {"refuseEnvFrom": "all"}}}
    stricter = [one for one in render(values, name="strict") if one["metadata"]["name"] == "strict-tangram-devices"]
    assert len(stricter) == 2
    cluster.kubectl("apply", "-f", "-", input=json.dumps({"apiVersion": "v1", "kind": "List", "items": stricter}))
    try:
        unseen = pod({"name": "m", "image": "x", "envFrom": [all_of()]})
        eventually(lambda: create(cluster, TENANT, unseen).returncode, "the stricter rule is in force")
        answer = create(cluster, TENANT, unseen)
        assert "spec.containers[m].envFrom" in answer.stderr
        assert UNSEEN in answer.stderr
        assert create(cluster, TENANT, pod({"name": "m", "image": "x", "envFrom": [all_of("APP_")]})).returncode == 0
    finally:
        for one in stricter:
            cluster.kubectl("delete", one["kind"], one["metadata"]["name"])


def test_rules_raise_no_type_warnings(cluster):
    """The cluster's own check of the expressions against the schema of pods finds nothing."""
    rules = ("reserved-annotations", "fractions", "devices", "device-annotations", "workloads", "tenants", "templates")
    for name in rules:
        policy = ("validatingadmissionpolicy", f"tangram-{name}")
        cluster.kubectl("wait", *policy[:1], policy[1], "--for", "jsonpath={.status.typeChecking}", "--timeout=60s")
        status = json.loads(cluster.kubectl("get", *policy, "-o", "json").stdout)["status"]
        assert status["typeChecking"] == {}, name


@pytest.mark.parametrize(
    ("changed", "warning"),
    [
        ({}, ""),
        ({"restartPolicy": "Never", "schedulerName": "tangram"}, ""),
        ({"restartPolicy": "OnFailure"}, "spec.roles[worker].template.spec.restartPolicy has no effect"),
        ({"schedulerName": "default-scheduler"}, "schedulerName has no effect: the pods are for the scheduler tangram"),
        ({"hostname": "x"}, "spec.roles[worker].template.spec: hostname and subdomain have no effect"),
        ({"nodeName": "n0"}, "nodeName: pods that name their node are refused where they ask for GPUs"),
        ({"initContainers": [asking("30", name="init")]}, "containers ask for GPUs beside gpus"),
        ({"containers": [asking("30")]}, "containers ask for GPUs beside gpus"),
    ],
)
def test_what_a_template_says_and_the_controller_sets_otherwise_is_told(cluster, changed, warning):
    job = job_object(role("worker", gpus={"count": 1}), name="told")
    job["metadata"] = {"name": "told", "namespace": "lab"}
    job["spec"]["roles"][0]["template"]["spec"] |= changed
    answer = cluster.kubectl("create", "--dry-run=server", "-f", "-", input=json.dumps(job), check=False)
    assert answer.returncode == 0, answer.stderr
    assert (warning in answer.stderr) if warning else ("Warning" not in answer.stderr), answer.stderr


def test_labels_of_a_template_do_not_choose_the_queue_and_that_is_told(cluster):
    service = service_object(name="told")
    service["metadata"] = {"name": "told", "namespace": "lab"}
    template = service["spec"]["revisions"][0]["template"]
    template["metadata"] = {"labels": {names.QUEUE: "sales"}}
    template["spec"]["restartPolicy"] = "Always"
    answer = cluster.kubectl("create", "--dry-run=server", "-f", "-", input=json.dumps(service))
    assert "spec.revisions[v1].template.metadata: labels with the prefix" in answer.stderr
    assert "restartPolicy" not in answer.stderr


@pytest.mark.parametrize(
    ("metadata", "warning"),
    [
        ({"labels": {names.QUEUE: "train"}}, "metadata.labels[scheduling.example.com/queue] have no effect"),
        (
            {"annotations": {"scheduling.example.com/gang-mn": "3"}},
            "metadata.annotations[scheduling.example.com/gang-mn]",
        ),
        ({"annotations": {names.STARTED: "true"}, "labels": {"team": "vision"}}, ""),
    ],
)
def test_keys_of_ours_that_nobody_reads_on_a_job_are_told(cluster, metadata, warning):
    job = job_object(role("worker"), role("other"), name="told")
    job["metadata"] = {"name": "told", "namespace": "lab", **metadata}
    answer = cluster.kubectl("create", "--dry-run=server", "-f", "-", input=json.dumps(job))
    assert (warning in answer.stderr) if warning else ("Warning" not in answer.stderr), answer.stderr


NOT_CLOSED = {"matchExpressions": [{"key": "closed", "operator": "DoesNotExist"}]}


@pytest.fixture
def tenants(cluster) -> Iterator[Any]:
    """A queue and a class are for the namespaces of the team research, of which lab is none."""
    here = {"matchLabels": {"team": "research"}, "matchExpressions": [{"key": "frozen", "operator": "DoesNotExist"}]}
    policy = {
        "apiVersion": "scheduling.example.com/v1",
        "kind": "HybridPolicy",
        "metadata": {"name": "default"},
        "spec": {
            "queues": [{"name": "research", "namespaceSelector": here}, {"name": "shared"}],
            "priorityClasses": [{"name": "gold", "namespaceSelector": here}, {"name": "tin"}],
        },
    }
    policy["spec"]["queues"].append({"name": "default", "namespaceSelector": NOT_CLOSED})
    before = cluster.kubectl("get", "hybridpolicy", "default", "-o", "json", check=False)
    cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", input=json.dumps(policy))
    of_queue = pod(metadata={"labels": {"scheduling.example.com/queue": "research"}})
    eventually(lambda: create(cluster, TENANT, of_queue).returncode, "the rule knows the policy")
    yield cluster
    cluster.kubectl("label", "namespace", "lab", "team-", "frozen-", "closed-", "scheduling.example.com/queue-")
    if before.returncode:
        cluster.kubectl("delete", "hybridpolicy", "default")
    else:
        old = {key: value for key, value in json.loads(before.stdout).items() if key in ("apiVersion", "kind", "spec")}
        cluster.kubectl("replace", "-f", "-", input=json.dumps(old | {"metadata": {"name": "default"}}))


def queued(**labels: str) -> dict[str, Any]:
    return pod(metadata=labelled(**labels))


def test_fault_22_a_queue_and_a_class_are_refused_to_namespaces_that_they_do_not_select(tenants):
    refused = create(tenants, TENANT, queued(queue="research"))
    assert "queue research is not for namespace lab; allowed are queues of policy default whose" in refused.stderr
    refused = create(tenants, TENANT, queued(priority_class="gold"))
    assert "class gold is not for namespace lab" in refused.stderr
    assert create(tenants, TENANT, queued(queue="shared", priority_class="tin")).returncode == 0
    assert create(tenants, TENANT, queued(queue="nowhere")).returncode == 0, "the scheduler says QueueUnknown"


def test_a_namespace_that_is_selected_may_and_one_that_is_frozen_may_not(tenants):
    tenants.kubectl("label", "namespace", "lab", "team=research")
    eventually(lambda: not create(tenants, TENANT, queued(queue="research")).returncode, "the label is seen")
    tenants.kubectl("label", "namespace", "lab", "frozen=yes")
    eventually(lambda: create(tenants, TENANT, queued(queue="research")).returncode, "the label is seen")


def test_the_queue_that_a_namespace_names_for_its_pods_is_checked_too(tenants):
    tenants.kubectl("label", "namespace", "lab", "scheduling.example.com/queue=research")
    eventually(lambda: create(tenants, TENANT, queued()).returncode, "the label is seen")
    assert "queue research is not for namespace lab" in create(tenants, TENANT, queued(queue="default")).stderr


@pytest.mark.parametrize("queue", [None, ""])
def test_a_namespace_that_names_no_queue_or_an_empty_one_uses_the_default_queue(tenants, queue):
    if queue is not None:
        tenants.kubectl("label", "namespace", "lab", f"scheduling.example.com/queue={queue}")
    tenants.kubectl("label", "namespace", "lab", "closed=yes")
    eventually(lambda: create(tenants, TENANT, queued()).returncode, "the labels are seen")
    assert "queue default is not for namespace lab" in create(tenants, TENANT, queued()).stderr


def test_a_pod_that_is_there_takes_other_labels_when_its_namespace_has_lost_the_queue(tenants):
    there = queued(queue="research")
    there["metadata"]["name"] = "there"
    tenants.kubectl("label", "namespace", "lab", "team=research", "--overwrite")
    eventually(lambda: not create(tenants, TENANT, there, keep=True).returncode, "the label is seen")
    label = ("label", "pod", "there", "-n", "lab", "--overwrite", "--as", TENANT)
    try:
        tenants.kubectl("label", "namespace", "lab", "team-")
        eventually(lambda: create(tenants, TENANT, queued(queue="research")).returncode, "the label is gone")
        noted = tenants.kubectl(*label, "example.com/note=a", check=False)
        assert noted.returncode == 0, noted.stderr
        moved = tenants.kubectl(*label, "scheduling.example.com/priority-class=gold", check=False)
        assert "is not for namespace lab" in moved.stderr
    finally:
        tenants.kubectl("delete", "pod", "there", "-n", "lab", "--force", "--grace-period=0")


def test_pods_of_other_schedulers_are_free(tenants):
    other = queued(queue="research")
    other["spec"]["schedulerName"] = "default-scheduler"
    assert create(tenants, TENANT, other).returncode == 0


def test_jobs_are_refused_as_their_pods_would_be(tenants):
    job = sample("TrainingJob", "metadata: {name: barred, namespace: lab}\nspec: {queue: research}")
    refused = tenants.kubectl("create", "-f", "-", input=json.dumps(job), check=False)
    assert "queue research is not for namespace lab" in refused.stderr


def test_every_label_and_annotation_that_pods_may_have_is_known_to_the_rule(render_rule):
    known = {getattr(names, key) for key in KEYS} - {
        names.SCHEDULER_SETTINGS, names.AT_RISK, names.VULNERABLE, names.STARTED
    }  # fmt: skip
    assert render_rule == {key.partition("/")[2] for key in known}


@pytest.fixture
def render_rule() -> set[str]:
    """The words of the template that names what is known."""
    text = (CHART / "templates" / "admission-workloads.yaml").read_text(encoding="utf-8")
    found = re.findall(r"\$(?:labels|annotations) := list (.*) }}", text)
    return {word.strip('"') for line in found for word in line.split()}


def made_by_the_controller() -> Iterator[dict[str, Any]]:
    """A pod of each kind that it makes, a launcher with its host files too."""
    job = parse_training_job(job_object(role("launcher"), role("worker", 2), name="mpi", framework="mpi"))
    gang = manifests.gang_of(job, 1)
    yield from (manifests.job_pod(job, gang, member, "tangram") for member in gang.members[:2])
    service = parse_inference_service(service_object())
    yield manifests.service_pod(service, service.spec.revisions[0], 0, "tangram")


@pytest.mark.parametrize("made", list(made_by_the_controller()), ids=lambda made: made["metadata"]["name"])
def test_pods_that_the_controller_makes_are_allowed(made, cluster):
    made["metadata"] = {key: value for key, value in made["metadata"].items() if key != "ownerReferences"}
    made["metadata"]["namespace"] = "lab"
    answer = create(cluster, TENANT, made)
    assert answer.returncode == 0, answer.stderr
