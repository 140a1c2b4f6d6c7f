"""What pods' rules about other pods allow, worked out anew from the rules' own words and from who is where."""

from collections import Counter

from tangram.api.objects import Node, Pod, PodAffinityTerm, TopologySpreadConstraint
from tangram.simulate.world import World


def welcome(world: World, pod: Pod, node: Node) -> bool:
    """Whether neither the pod's rules about others nor theirs about it keep it off the node."""
    others = [one for one in world.pods.values() if one.spec.node_name in world.nodes and _lives(one)]
    affinity = pod.spec.affinity
    away = affinity.pod_anti_affinity.required if affinity and affinity.pod_anti_affinity else ()
    near = affinity.pod_affinity.required if affinity and affinity.pod_affinity else ()
    return (
        not any(_meets(world, term, other, node) for term in away for other in others)
        and not any(_repels(world, other, pod, node) for other in others)
        and all(_is_near(world, term, pod, node, others) for term in near)
        and all(_keeps(world, one, pod, node, others) for one in pod.spec.topology_spread_constraints)
    )


def _lives(pod: Pod) -> bool:
    return pod.status.phase not in ("Succeeded", "Failed")


def _selects(rule: PodAffinityTerm | TopologySpreadConstraint, pod: Pod) -> bool:
    wanted = rule.label_selector.match_labels if rule.label_selector is not None else {}
    return wanted.items() <= pod.metadata.labels.items()


def _together(world: World, key: str, pod: Pod, node: Node) -> bool:
    """Whether a pod's node is in the same place as the node."""
    place = node.metadata.labels.get(key)
    return place is not None and world.nodes[pod.spec.node_name].metadata.labels.get(key) == place


def _meets(world: World, term: PodAffinityTerm, other: Pod, node: Node) -> bool:
    return _selects(term, other) and _together(world, term.topology_key, other, node)


def _repels(world: World, other: Pod, pod: Pod, node: Node) -> bool:
    affinity = other.spec.affinity
    away = affinity.pod_anti_affinity.required if affinity and affinity.pod_anti_affinity else ()
    return any(_selects(term, pod) and _together(world, term.topology_key, other, node) for term in away)


def _is_near(world: World, term: PodAffinityTerm, pod: Pod, node: Node, others: list[Pod]) -> bool:
    if term.topology_key not in node.metadata.labels:
        return False
    placed = [
        one
        for one in others
        if _selects(term, one) and term.topology_key in world.nodes[one.spec.node_name].metadata.labels
    ]
    first = not placed and _selects(term, pod)
    return first or any(_together(world, term.topology_key, one, node) for one in placed)


def _keeps(world: World, rule: TopologySpreadConstraint, pod: Pod, node: Node, others: list[Pod]) -> bool:
    """Places count that the pod's node selector allows; those that are terminating do not."""
    key, selector = rule.topology_key, pod.spec.node_selector.items()
    keys = [one.topology_key for one in pod.spec.topology_spread_constraints]
    there = [
        one
        for one in world.nodes.values()
        if selector <= one.metadata.labels.items() and all(some in one.metadata.labels for some in keys)
    ]
    places = Counter(dict.fromkeys((one.metadata.labels[key] for one in there), 0))
    names = {one.metadata.name for one in there}
    for one in others:
        if one.spec.node_name in names and _selects(rule, one) and not one.metadata.deletion_timestamp:
            places[world.nodes[one.spec.node_name].metadata.labels[key]] += 1
    mine = node.metadata.labels.get(key)
    return mine in places and places[mine] + _selects(rule, pod) - min(places.values()) <= rule.max_skew
