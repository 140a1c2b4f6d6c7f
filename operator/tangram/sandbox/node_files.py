"""Where a real node keeps what, and what its kubelet and its container runtime read."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tangram.sandbox.image import PAUSE_IMAGE
from tangram.sandbox.places import write_private
from tangram.sandbox.servers import REAL_NODE, Layout

KUBELET_FOLDER = "/var/lib/kubelet"
"""The kubelet's folder as it and its pods see it: the usual one, so that hostPath volumes of node agents work."""
RUNTIME_SOCKET = "/run/containerd/containerd.sock"
"""Of containerd, inside the node."""


@dataclass(frozen=True)
class NodeLayout:
    """Where things of a real node lie, seen from outside of it."""

    folder: Path
    """The sandbox's."""

    @property
    def kubelet(self) -> Path:
        """Inside the node this is ``/var/lib/kubelet``."""
        return self.folder / "kubelet"

    @property
    def device_plugins(self) -> Path:
        """Where device plugins put their sockets and find the kubelet's."""
        return self.kubelet / "device-plugins"

    @property
    def pod_resources(self) -> Path:
        """Socket of the kubelet's pod-resources API."""
        return self.kubelet / "pod-resources" / "kubelet.sock"

    @property
    def manifests(self) -> Path:
        """The kubelet runs the pods whose files lie here, API server or not."""
        return self.kubelet / "manifests"

    @property
    def pod_logs(self) -> Path:
        """What containers print."""
        return self.folder / "logs" / "pods"

    @property
    def containerd(self) -> Path:
        """Images and containers."""
        return self.folder / "containerd"

    @property
    def image(self) -> Path:
        """The archive of the one image."""
        return self.folder / "image.tar"

    @property
    def files(self) -> Path:
        """Configuration files."""
        return self.folder / "node"

    def log(self, server: str) -> Path:
        """The log of ``kubelet``, ``containerd`` or ``node``."""
        return self.folder / "logs" / f"{server}.log"

    def make_folders(self) -> None:
        """Make what the servers expect to be there."""
        for folder in (self.manifests, self.device_plugins, self.pod_logs, self.containerd, self.files / "cni"):
            folder.mkdir(parents=True, exist_ok=True)


@dataclass(frozen=True)
class NodeNetwork:
    """A bridge of the node's own; nothing beyond this machine is reached from it, nor reaches it."""

    bridge: str
    third_byte: int

    @property
    def subnet(self) -> str:
        """Where pods get their addresses from."""
        return f"10.88.{self.third_byte}.0/24"

    @property
    def address(self) -> str:
        """The node's own."""
        return f"10.88.{self.third_byte}.1"


def write_configuration(
    layout: NodeLayout, network: NodeNetwork, cgroup: str, kubelet_port: int, programs: Mapping[str, Path]
) -> None:
    """Write all files that the kubelet, containerd and the network plugins read."""
    write_private(layout.files / "containerd.toml", _containerd(layout, programs))
    write_private(layout.files / "cni" / "10-sandbox.conflist", json.dumps(_pod_network(network), indent=2))
    configuration = _kubelet(layout, network, cgroup, kubelet_port)
    write_private(layout.files / "kubelet.json", json.dumps(configuration, indent=2))


def containerd_arguments(layout: NodeLayout) -> list[str]:
    """containerd, with everything of its own."""
    return [f"--config={layout.files / 'containerd.toml'}"]


def node_address(layout: NodeLayout) -> str:
    """The node's own address, as it was written for the kubelet."""
    return str(json.loads((layout.files / "kubelet.json").read_bytes())["address"])


def kubelet_arguments(layout: NodeLayout) -> list[str]:
    """kubelet as the user ``system:node:real-node``."""
    return [
        f"--config={layout.files / 'kubelet.json'}",
        f"--kubeconfig={Layout(layout.folder).kubeconfig('kubelet')}",
        f"--root-dir={KUBELET_FOLDER}",
        f"--hostname-override={REAL_NODE}",
        f"--node-ip={node_address(layout)}",
    ]


def _containerd(layout: NodeLayout, programs: Mapping[str, Path]) -> str:
    """``restrict_oom_score_adj``: without CAP_SYS_RESOURCE no process may get the negative score that is asked for.

    ``native`` copies layers instead of stacking them, which works on every file system.
    """
    interface = 'plugins."io.containerd.grpc.v1.cri"'
    values: dict[str, dict[str, object]] = {
        "": {"version": 2, "root": str(layout.containerd), "state": "/run/containerd"},
        "grpc": {"address": RUNTIME_SOCKET},
        interface: {"sandbox_image": PAUSE_IMAGE, "restrict_oom_score_adj": True},
        f"{interface}.containerd": {"snapshotter": "native", "default_runtime_name": "runc"},
        f"{interface}.containerd.runtimes.runc": {"runtime_type": "io.containerd.runc.v2"},
        f"{interface}.cni": {"bin_dir": str(programs["bridge"].parent), "conf_dir": str(layout.files / "cni")},
    }
    lines = []
    for table, entries in values.items():
        lines += [f"[{table}]"] if table else []
        lines += [f"{key} = {json.dumps(value)}" for key, value in entries.items()]  # JSON's scalars are TOML's
    return "\n".join(lines) + "\n"


def _pod_network(network: NodeNetwork) -> dict[str, object]:
    """No gateway and no routes: the plugin then leaves the machine's own forwarding and firewall alone."""
    ranges = [[{"subnet": network.subnet}]]
    bridge = {
        "type": "bridge",
        "bridge": network.bridge,
        "ipam": {"type": "host-local", "ranges": ranges, "dataDir": "/run/cni"},
    }
    return {"cniVersion": "1.0.0", "name": "sandbox", "plugins": [bridge]}


def _kubelet(layout: NodeLayout, network: NodeNetwork, cgroup: str, port: int) -> dict[str, object]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": network.address,
        "port": port,
        "healthzPort": 0,
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(layout.folder / "certificates" / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "containerRuntimeEndpoint": f"unix://{RUNTIME_SOCKET}",
        "staticPodPath": f"{KUBELET_FOLDER}/manifests",
        "volumePluginDir": f"{KUBELET_FOLDER}/volume-plugins",
        "podLogsDir": str(layout.pod_logs),
        "fileCheckFrequency": "1s",
        "nodeStatusUpdateFrequency": "1s",
        "resolvConf": "",
        "clusterDNS": ["10.0.0.10"],  # nobody there: without one the kubelet complains about each pod
        # Whatever control groups and swap the machine has: the node takes it as it is.
        "failCgroupV1": False,
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{cgroup}",
        "enforceNodeAllocatable": [],
        "failSwapOn": False,
        "evictionHard": {"memory.available": "100Mi"},
        "imageGCHighThresholdPercent": 100,
    }
