"""How a node's GPUs reach each other, as NVML reports it: NVLink first, else where their ways on the PCI bus meet."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from tangram.node.gpus import Link
from tangram.node.nvml import Nvml

_MOST_LANES = 36
_SWITCH = "switch"


def links_between(nvml: Nvml, devices: Mapping[str, Any], addresses: Mapping[str, str]) -> dict[str, tuple[Link, ...]]:
    """The ways from each GPU to the others, by uuid; a GPU that is lost meanwhile has none.

    A switch joins every two GPUs that both have lanes to it.
    """
    ends = {uuid: _lanes(nvml, device) for uuid, device in devices.items()}
    return {
        uuid: tuple(
            link
            for peer in devices
            if peer != uuid and (link := _link(nvml, devices, ends, (uuid, peer), addresses.get(peer, ""))) is not None
        )
        for uuid in devices
    }


def _link(
    nvml: Nvml, devices: Mapping[str, Any], ends: Mapping[str, Counter[str]], pair: tuple[str, str], pci: str
) -> Link | None:
    """The way from the first of the pair to the second, which is at a PCI address."""
    uuid, peer = pair
    lanes = ends[uuid][pci.upper()] or min(ends[uuid][_SWITCH], ends[peer][_SWITCH])
    if lanes:
        return Link(peer, "NVLink", lanes)
    kind = _common_ancestor(nvml, devices[uuid], devices[peer])
    return None if kind is None else Link(peer, kind)


def _lanes(nvml: Nvml, device: Any) -> Counter[str]:
    """Active lanes by what is at their other end: a PCI address in capitals, or the switch."""
    ends: Counter[str] = Counter()
    for lane in range(_MOST_LANES):
        active = nvml.ask_quietly("nvmlDeviceGetNvLinkState", device, lane)
        if active is None:
            return ends  # lanes are numbered without gaps
        if active != 1:
            continue
        kind = nvml.ask_quietly("nvmlDeviceGetNvLinkRemoteDeviceType", device, lane)
        if kind == nvml.names.NVML_NVLINK_DEVICE_TYPE_SWITCH:
            ends[_SWITCH] += 1
            continue
        remote = nvml.ask_quietly("nvmlDeviceGetNvLinkRemotePciInfo", device, lane)
        if remote is not None:
            ends[str(remote.busId).upper()] += 1
    return ends


def _common_ancestor(nvml: Nvml, device: Any, other: Any) -> str | None:
    level = nvml.ask_quietly("nvmlDeviceGetTopologyCommonAncestor", device, other)
    if level is None:
        return None
    if level <= nvml.names.NVML_TOPOLOGY_MULTIPLE:
        return "PCIe"
    return "Host" if level <= nvml.names.NVML_TOPOLOGY_NODE else "System"
