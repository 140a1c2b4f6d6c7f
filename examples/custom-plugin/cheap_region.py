"""Pods that want to save go to the cheapest region that has room: ``args: {regions: [north, west]}``."""

from tangram.decide.hooks import View
from tangram.snapshot.arrays import Bool, Int32

REGION = "topology.kubernetes.io/region"


class CheapRegion:
    """Pods with the label ``spend: saving`` prefer the regions in the order of the list, and any other one last."""

    name = "cheap-region"
    interface = 1
    node_labels = (REGION,)
    pod_labels = ("spend",)

    def __init__(self, regions: list[str]) -> None:
        if not regions:
            raise ValueError("args.regions: [] is not allowed; allowed: at least one region, the cheapest first")
        self.scores = {region: 1000 - 1000 * rank // len(regions) for rank, region in enumerate(regions)}

    def concerns(self, view: View, shapes: Int32) -> Bool:
        """Only pods that want to save."""
        return view.pod_label("spend").among(shapes, ["saving"])

    def score(self, view: View, shape: int, rows: Int32) -> Int32:
        """1000 in the first region of the list, less in each after it, 0 in all others."""
        return view.node_label(REGION).mapped(rows, self.scores)
