"""A team's pods run on the nodes of its cell only: ``args: {cells: {vision: cell-7}}``."""

from tangram.decide.hooks import View
from tangram.snapshot.arrays import Bool, Int32


class TeamCells:
    """Teams are told by the pods' label ``team``, cells by the nodes' label ``cell``."""

    name = "team-cells"
    interface = 1
    node_labels = ("cell",)
    pod_labels = ("team",)

    def __init__(self, cells: dict[str, str]) -> None:
        self.cells = cells

    def concerns(self, view: View, shapes: Int32) -> Bool:
        """Only the pods of teams that have a cell."""
        return view.pod_label("team").among(shapes, self.cells)

    def allow(self, view: View, shape: int, rows: Int32) -> Bool:
        """The nodes of the team's cell."""
        team = view.pod_label("team").value(shape)
        return view.node_label("cell").among(rows, [self.cells[team]])
