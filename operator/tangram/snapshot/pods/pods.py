"""What the builder remembers of each pod."""

from collections.abc import Iterable

import msgspec
from msgspec.structs import replace

from tangram.api import names
from tangram.api.objects import Pod
from tangram.plan import Place, PodName
from tangram.snapshot.arrays import Int64
from tangram.snapshot.gangs.gangs import GangTable
from tangram.snapshot.gangs.members import Member
from tangram.snapshot.nodes.usage import Usage
from tangram.snapshot.pods.states import State
from tangram.snapshot.requests.amounts import amounts_key

_BOUND = State.BOUND


class Holding(msgspec.Struct, frozen=True, gc=False, eq=False):
    """What a pod that was sent or is bound counts for, everywhere where it is counted."""

    node: str
    usage: Usage
    members: tuple[int, ...] = ()
    """Groups of pods that others have rules about and that it is in."""
    member: Member | None = None
    """Its place in a gang."""
    leaf: int = -1
    """Leaf row of its queue, -1: none."""
    charged: Int64 | None = None
    """[X] what its queue is charged."""


class PodRow(msgspec.Struct, gc=False, eq=False):
    """What the builder remembers of one pod."""

    name: PodName
    state: State = State.ABSENT
    shape: int = -1
    slot: int = -1
    """Where it waits; -1: it does not."""
    member: Member | None = None
    """Its place in a gang; None: it stands alone, or is being deleted."""
    gang_row: int = -1
    holding: Holding | None = None
    pod: Pod | None = None
    members: tuple[int, ...] = ()
    """Groups of pods that others have rules about and that it is in."""
    place: Place | None = None
    """The decision about it that the watch has not shown yet."""
    gives: tuple[str, int] = "", -1
    """(node, shape) of what it gives back there when it leaves alone, where that is less than it holds: others there
    have the same volumes. The shape is -1 where it is not."""

    @property
    def node(self) -> str:
        """Where it is counted; "" while it waits."""
        return self.holding.node if self.holding is not None else ""

    @property
    def given_back(self) -> int:
        """The shape of what its node gains when it leaves alone."""
        node, shape = self.gives
        return shape if shape >= 0 and node == self.node else self.shape

    @property
    def role(self) -> str:
        """Its role in its gang."""
        return self.member.role if self.member is not None else ""

    def runs_here(self, scheduler_name: str) -> bool:
        """Whether it is one of ours that the watch has shown to be bound, and that nobody is deleting."""
        return (
            self.state == _BOUND
            and self.shape >= 0
            and self.pod is not None
            and not self.pod.metadata.deletion_timestamp
            and self.pod.spec.scheduler_name == scheduler_name
        )


def find_overdue(
    gangs: GangTable, rows: Iterable[PodRow], scheduler_name: str, now: int, troubled: Iterable[int] = ()
) -> None:
    """Name the members to evict of gangs that have been bound in part for too long; ``troubled`` as in ``check``."""
    overdue = gangs.arrays.overdue
    overdue.clear()
    members: dict[int, list[PodRow]] = {gang: [] for gang in gangs.check(now, troubled)}
    for row in rows if members else ():
        if row.gang_row in members and row.runs_here(scheduler_name):
            members[row.gang_row].append(row)
    for gang, found in members.items():
        overdue[gang] = tuple(sorted((row.name, row.node) for row in found if not gangs.is_past(row.member)))


def same_but_for_its_place(old: Pod, new: Pod) -> bool:
    """Whether all that a pod asks for and says is what it was while it waited, now that it has been bound, and nothing
    says that it has something else."""
    notes, given, status = old.metadata.annotations, new.metadata.annotations.get(names.GPUS), new.status
    return (
        not (status.container_statuses or status.init_container_statuses or status.resources is not None)
        and (notes if given is None else {**notes, names.GPUS: given}) == new.metadata.annotations
        and old.metadata.labels == new.metadata.labels
        and replace(old.spec, node_name=new.spec.node_name) == new.spec
    )


def same_to_us(old: Pod, new: Pod) -> bool:
    """A status of a running pod changes often, and what is counted of it seldom (a resize, a label)."""
    return (
        old.spec == new.spec
        and amounts_key(old) == amounts_key(new)
        and old.metadata.labels == new.metadata.labels
        and old.metadata.annotations == new.metadata.annotations
    )
