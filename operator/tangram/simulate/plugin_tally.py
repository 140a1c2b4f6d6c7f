"""How often a plugin was asked, and what its answers came to: a check that never asked anything has found nothing."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial, update_wrapper
from typing import Any

import numpy as np

from tangram.decide.hooks import HOOKS
from tangram.decide.registry import Registry

METHODS = tuple(
    name for hook in HOOKS for name, _ in inspect.getmembers(hook, inspect.isfunction) if not name.startswith("_")
)


@dataclass(slots=True)
class Tally:
    """Calls by method."""

    calls: dict[str, int] = field(default_factory=dict)
    yes: dict[str, int] = field(default_factory=dict)
    """Of ``allow`` and ``concerns`` the nodes, or shapes, that were answered with yes."""
    answers: dict[str, int] = field(default_factory=dict)
    """All that these were asked about."""
    least: int | None = None
    most: int | None = None
    """The range of its scores."""

    def note(self, method: str, answer: object) -> None:
        """Count an answer; one that is of no use is a fault, which is for others to find."""
        self.calls[method] = self.calls.get(method, 0) + 1
        if not isinstance(answer, np.ndarray) or not answer.size:
            return
        if answer.dtype == np.bool_:
            self.yes[method] = self.yes.get(method, 0) + int(answer.sum())
            self.answers[method] = self.answers.get(method, 0) + answer.size
        elif method == "score" and answer.dtype.kind in "iu":
            least, most = int(answer.min()), int(answer.max())
            self.least = least if self.least is None else min(self.least, least)
            self.most = most if self.most is None else max(self.most, most)

    def lines(self) -> list[str]:
        """What was counted, a line for each method that was asked."""
        found = []
        for method, calls in self.calls.items():
            line = f"{method}: asked {calls} times"
            if method in self.answers:
                line += f", yes for {self.yes[method]} of {self.answers[method]}"
            if method == "score" and self.least is not None:
                line += f", answers from {self.least} to {self.most}"
            found.append(line)
        return found

    def doubts(self) -> list[str]:
        """Why the check may not have reached what the plugin does."""
        found = []
        if not self.calls:
            found.append("it was never asked anything")
        if self.calls.get("allow") and self.yes.get("allow") == self.answers.get("allow"):
            found.append("allow never forbade a node")
        if self.calls.get("concerns") and not self.yes.get("concerns"):
            found.append("it concerned no pod; give it the arguments of a policy with --policy")
        if self.calls.get("score") and self.least == self.most:
            found.append("score never told one node from another")
        return found


class Watched(Registry):
    """Plugins of another registry, one of which is listened to."""

    def __init__(self, registry: Registry, name: str, tally: Tally) -> None:
        super().__init__({})
        self.strangers, self.asking = registry.strangers, registry.asking
        self._registry, self._name, self._tally = registry, name, tally

    def create(self, name: str, args: str = "") -> object:
        """As of the other registry."""
        plugin: Any = self._registry.create(name, args)
        if name == self._name:
            for method in METHODS:
                hook = getattr(plugin, method, None)
                if hook is not None:
                    try:
                        setattr(plugin, method, update_wrapper(partial(self._asked, method, hook), hook))
                    except AttributeError:  # it has slots, and is not counted
                        break
        return plugin

    def _asked(self, method: str, hook: Callable[..., object], *arguments: object) -> object:
        answer = hook(*arguments)
        self._tally.note(method, answer)
        return answer
