"""Levels of topology: by which labels nodes are near each other."""

from tangram.api.common import LabelKey, Model, Name


class TopologyLevel(Model):
    """A level at which nodes are near each other: nodes with equal values of its label are one domain."""

    name: Name
    """Name by which workloads choose the level."""
    label: LabelKey
    """Node label whose value the nodes of one domain share."""


DEFAULT_LEVELS = (
    TopologyLevel(name="region", label="topology.kubernetes.io/region"),
    TopologyLevel(name="zone", label="topology.kubernetes.io/zone"),
    TopologyLevel(name="rack", label="topology.kubernetes.io/rack"),
    TopologyLevel(name="nvlink-domain", label="nvidia.com/gpu.clique"),
    TopologyLevel(name="host", label="kubernetes.io/hostname"),
)
"""Widest first: a region is a data centre, an NVLink domain the nodes that share one NVLink fabric."""
