"""Where clauses about nodes hold; those that give nodes by name take no room for each node."""

import random
from itertools import product

from tests.worlds import START, World, cluster, node, pod, requires

from tangram.api.objects import Node, NodeSelectorTerm, Requirement
from tangram.snapshot.build import Builder
from tangram.snapshot.nodes.nodes import NodeTable
from tangram.snapshot.requests.matching import clause_holds

HOST, NAME = "kubernetes.io/hostname", "metadata.name"


def test_pods_that_name_a_node_each_add_no_row_over_all_nodes() -> None:
    builder = Builder()
    for one in cluster("100xcpu"):
        builder.put_node(one)
    for number in range(100):
        by_label = (Requirement(HOST, "In", (f"n{number}",)),)
        by_field = NodeSelectorTerm(match_fields=(Requirement(NAME, "In", (f"n{number}",)),))
        elsewhere = (Requirement(HOST, "NotIn", (f"n{number}",)),)
        for kind, term in (("label", by_label), ("field", by_field), ("elsewhere", elsewhere)):
            builder.put_pod(pod(f"{kind}-{number}", affinity=requires(term)))
        builder.put_pod(pod(f"selector-{number}", selector={HOST: f"n{number}"}))
    assert len(builder.snapshot(START).nodes.terms) == 0


def test_each_pod_runs_on_the_node_that_it_names() -> None:
    wanted = {f"p{number}": f"n{number}" for number in range(8)}
    pods = [pod(name, selector={HOST: where}) for name, where in wanted.items()]
    world = World(cluster("8xcpu"), pods)
    assert {place.pod.name: place.node for place in world.step().place} == wanted


def test_a_node_that_is_named_before_it_comes_is_found_when_it_does() -> None:
    world = World(cluster("2xcpu"), [pod("early", selector={HOST: "late"})])
    assert not world.step().place
    world.cycle.builder.put_node(node("late", 0))
    assert [place.node for place in world.step().place] == ["late"]


def test_clauses_hold_where_they_say_whatever_nodes_come_go_and_are_called() -> None:
    """Against each clause asked of each node, with rows of nodes that are used again, host names that two nodes share
    or none has, and clauses that nobody speaks of any more."""
    chance, values = random.Random(7), ("a", "b", "c", "d")
    lists = [(), *((one,) for one in values), ("a", "c"), ("c", "b", "c")]
    known = [
        (Requirement(key, operator, found), key == NAME)
        for key, operator, found in product((HOST, NAME, "zone"), ("In", "NotIn"), lists)
    ] + [(Requirement(HOST, "Exists"), False), (Requirement(HOST, "DoesNotExist"), False)]
    table, there, numbers = NodeTable(), dict[str, Node](), dict[int, int]()
    for _ in range(600):
        name, index = chance.choice(values), chance.randrange(len(known))
        if chance.random() < 0.25:
            table.remove(name)
            there.pop(name, None)
        else:
            labels = {HOST: chance.choice(values), "zone": chance.choice(values)}
            there[name] = node(name, 0, labels=labels)
            if chance.random() < 0.2:
                del there[name].metadata.labels[HOST]
            table.put(there[name])
        clause, is_field = known[index]
        numbers[index] = table.clause(clause, is_field=is_field)
        if chance.random() < 0.1:
            numbers = {one: number for one, number in numbers.items() if chance.random() < 0.5}
            table.clauses.retain(set(numbers.values()))
        for one, number in numbers.items():
            held = table.arrays.hold((number,))
            for where, row in table.rows.items():
                assert held[row] == clause_holds(known[one][0], there[where], is_field=known[one][1]), known[one]
    assert not table.arrays.hold((-1,)).any()
