"""The policy in force as arrays: its priority classes and the plugins that score."""

import msgspec
import numpy as np

from tangram.api.objects import Requirement
from tangram.api.policy import HybridPolicy
from tangram.snapshot.arrays import BEST_EFFORT, PREEMPT, STRICT, Classes, PluginChoice
from tangram.snapshot.nodes.nodes import NodeTable

_FALLBACKS = {"best-effort": BEST_EFFORT, "strict": STRICT, "preempt": PREEMPT}
DEFAULT_SCORES = (PluginChoice("bid-price", 1),)
NO_CLASSES = Classes((), np.zeros(0, np.int32), (), BEST_EFFORT)


def classes_of(policy: HybridPolicy, nodes: NodeTable) -> Classes:
    """The policy's classes; their selectors become clauses over the nodes."""
    found = policy.spec.priority_classes
    return Classes(
        names=tuple(one.name for one in found),
        weight=np.array([one.weight for one in found], np.int32),
        selector=tuple(
            tuple(nodes.clause(Requirement(key, "In", (value,)), is_field=False) for key, value in selector.items())
            for selector in (one.node_selector for one in found)
        ),
        fallback=_FALLBACKS[str(policy.spec.fallback_strategy)],
    )


def scores_of(policy: HybridPolicy) -> tuple[PluginChoice, ...]:
    """The score plugins of the policy: its strategy's, and the ones that it names with their weights and arguments."""
    placement = policy.spec.placement
    base = {"pack": "binpack"}.get(str(placement.strategy), str(placement.strategy))
    chosen = {base: PluginChoice(base)} | {
        plugin.name: PluginChoice(plugin.name, plugin.weight, _text(plugin.args)) for plugin in placement.plugins
    }
    return tuple(choice for choice in chosen.values() if choice.weight)


def _text(args: dict[str, object]) -> str:
    return msgspec.json.encode(args, order="sorted").decode() if args else ""
