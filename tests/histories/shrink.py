"""Makes a history that finds something smaller: drops actions, pods, nodes and queues while the same is found."""

from collections.abc import Callable, Iterator
from dataclasses import replace

from tests.histories.findings import Count, Finding
from tests.histories.history import History, Submit

Live = Callable[[History], list[Finding]]


def shrink(history: History, live: Live) -> History:
    """The smallest history found in which the first thing that this one finds is found too."""
    wanted = {one.count for one in live(history)[:1]}
    if not wanted:
        return history
    while True:
        for smaller in _smaller(history):
            if _finds(smaller, live, wanted):
                history = smaller
                break
        else:
            return history


def _finds(history: History, live: Live, wanted: set[Count]) -> bool:
    return any(one.count in wanted for one in live(history))


def _smaller(history: History) -> Iterator[History]:
    actions = history.actions
    for size in (len(actions) // 2, len(actions) // 4, 1):
        for begin in range(0, len(actions), size) if size else ():
            yield replace(history, actions=actions[:begin] + actions[begin + size :])
    for index, (second, action) in enumerate(actions):
        if isinstance(action, Submit) and len(action.pods) > 1:
            for gone in range(len(action.pods)):
                pods = action.pods[:gone] + action.pods[gone + 1 :]
                fewer = replace(action, pods=pods)
                yield replace(history, actions=(*actions[:index], (second, fewer), *actions[index + 1 :]))
    for index in range(len(history.nodes)):
        if len(history.nodes) > 1:
            yield replace(history, nodes=history.nodes[:index] + history.nodes[index + 1 :])
    if history.grace:
        yield replace(history, grace=0)
    if history.fresh:
        yield replace(history, fresh=0)
    yield from _simpler_policies(history)


def _simpler_policies(history: History) -> Iterator[History]:
    spec = history.spec
    if spec is None:
        return
    yield replace(history, spec=None)
    for index, queue in enumerate(spec["queues"]):
        for name in queue.keys() - {"name"}:
            plainer = {key: value for key, value in queue.items() if key != name}
            queues = [*spec["queues"][:index], plainer, *spec["queues"][index + 1 :]]
            yield replace(history, spec=spec | {"queues": queues})
    plain = {"priorityClasses": [{"name": "any", "weight": 1}], "fallbackStrategy": "best-effort"}
    for name, value in plain.items():
        if spec[name] != value:
            yield replace(history, spec=spec | {name: value})
