"""What is remembered changes no plan: ``World.step`` compares each with one that is made without a memory."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st
from tests.decide.test_volumes import claim, on, using
from tests.worlds import World, cluster, gang, pod, policy

from tangram.api.objects import Metadata
from tangram.api.storage import StorageClass
from tangram.decide.queues.ranking import Dead, Kind, Line, Ranking, Request, Tree

TWO_QUEUES = policy(queues=[{"name": "a"}, {"name": "b"}])


def test_a_pod_that_is_known_to_fit_nowhere_counts_as_one_that_waits() -> None:
    """Beside another queue a gang takes what it needs, and each further member has a turn of its own."""
    world = World(cluster("1x2xA100"), [pod("elsewhere", queue="a", selector={"zone": "x"})], TWO_QUEUES, batch=2)
    world.step()
    world.add(*gang("g", 3, minimum=2, queue="b", cpu=4))
    assert [len(world.step().place) for _ in range(2)] == [2, 1]


@dataclass
class Everybody:
    """Who fits nowhere is known from the beginning."""

    dead: frozenset[int]
    """Shapes."""

    def fits(self, request: Request) -> int | None:
        return None if request.shape in self.dead else 0

    def needs_no_turn(self, request: Request, positions: list[int]) -> bool:
        return False


def turns(parent: list[int], use: list[int], past: list[int], kinds: list[tuple[int, int, Dead | None]]) -> list[int]:
    """The shapes that have a turn, in order, without those whose turn is the last. Kinds are one pod each: its leaf,
    what it asks for, and, if it fits nowhere, which turn it has then."""
    rows = len(parent)
    usage = [[one, one, one] for one in use]
    tree = Tree(parent, usage, [[0] * 3] * rows, [[0.01] * 3] * rows, [float(one) for one in past], [[1] * 3] * rows)
    lines: dict[int, Line] = {}
    for number, (leaf, asked, dead) in enumerate(kinds):
        request = Request(leaf, number, ([asked] * 3,), [asked] * 3, 0, is_gang=False)
        kind = Kind(request, 0, [number], Dead.ALWAYS if dead is None else dead)
        lines.setdefault(leaf, Line([])).alive.append(kind)
    ranking = Ranking(tree, lines, Everybody(frozenset(n for n, kind in enumerate(kinds) if kind[2] is not None)))
    found = []
    while (unit := ranking.take()) is not None:
        leaf, asked, dead = kinds[unit.request.shape]
        if dead is Dead.LAST:
            continue
        found.append(unit.request.shape)
        if dead is None:
            row = leaf
            while row >= 0:
                usage[row][:] = [one + asked for one in usage[row]]
                row = parent[row]
            ranking.charged(leaf, 0)
    return found


@given(
    use=st.lists(st.integers(0, 9), min_size=3, max_size=3),
    past=st.lists(st.integers(0, 2), min_size=3, max_size=3),
    kinds=st.lists(
        st.tuples(st.integers(3, 5), st.integers(1, 4), st.sampled_from([None, Dead.ALWAYS, Dead.LAST])), max_size=9
    ),
)
def test_a_pod_for_which_nothing_can_be_done_does_not_change_whose_turn_it_is(
    use: list[int], past: list[int], kinds: list[tuple[int, int, Dead | None]]
) -> None:
    """Three queues, each with one leaf. Whoever is known to fit nowhere and to have no right does not get in line."""
    parent, both, none = [-1, -1, -1, 0, 1, 2], [*use, *use], [*past, 0, 0, 0]
    numbers = [number for number, kind in enumerate(kinds) if kind[2] is not Dead.LAST]
    without = turns(parent, both, none, [kinds[number] for number in numbers])
    assert turns(parent, both, none, kinds) == [numbers[one] for one in without]


def test_whether_the_batch_was_full_does_not_depend_on_what_is_held_for_volumes_of_it() -> None:
    world = World(cluster("1x4xA100"), batch=1)
    world.cycle.builder.volumes.start()
    world.cycle.builder.volumes.put_class("late", StorageClass(Metadata("late"), "WaitForFirstConsumer"))
    world.cycle.builder.volumes.put_claim(("default", "data"), claim("data", phase="Pending", kind="late"))
    world.add(pod("large", whole=8))
    assert [hold.pod.name for hold in world.step().hold] == ["large"]
    world.add(using(pod("p", age=1), on("data")), pod("as-large", whole=8))
    assert world.step().provision
    assert [hold.pod.name for hold in world.step().hold if hold.pod.name != "p"] == ["as-large"]
