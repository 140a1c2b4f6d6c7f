"""Plugin name -> factory: the built-in table, and entry points of the group ``tangram.plugins``."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

from tangram.decide.arguments import arguments
from tangram.decide.hooks import HOOKS, INTERFACE
from tangram.decide.plugins.best_fit import BestFit
from tangram.decide.plugins.bid_price import BidPrice
from tangram.decide.plugins.binpack import Binpack
from tangram.decide.plugins.clustering import GpuClustering
from tangram.decide.plugins.dot_product import DotProduct
from tangram.decide.plugins.fragmentation import Fragmentation
from tangram.decide.plugins.packing import GpuPacking
from tangram.decide.plugins.random_fit import RandomFit
from tangram.decide.plugins.spread import Spread
from tangram.errors import InvalidInput, PluginError, PluginTimeout
from tangram.snapshot.arrays import PluginChoice
from tangram.snapshot.values.labels import Reads

Answer = TypeVar("Answer")
Factory = Callable[..., object]
GROUP = "tangram.plugins"

BUILT_IN: Mapping[str, Factory] = {
    "best-fit": BestFit,
    "bid-price": BidPrice,
    "binpack": Binpack,
    "dot-product": DotProduct,
    "fragmentation": Fragmentation,
    "gpu-clustering": GpuClustering,
    "gpu-packing": GpuPacking,
    "random": RandomFit,
    "spread": Spread,
}


@dataclass(slots=True)
class Asking:
    """What whoever watches from outside sees of plugins that are not built in."""

    asked: tuple[str, str] | None = None
    """(plugin, hook) that is being asked, an object of its own for each call; None: nobody is."""
    hung: dict[str, str] = field(default_factory=dict)
    """Plugins that have not answered in time, with a sentence: they are asked no more."""

    def call(self, name: str, hook: Callable[..., Answer], *arguments: Any, **more: Any) -> Answer:
        """What a plugin's hook, or the plugin's class, answers. Raises PluginError when that was not in time, and
        whatever the plugin raises."""
        try:
            try:
                self.asked = name, "__init__" if isinstance(hook, type) else getattr(hook, "__name__", "it")
                answer = hook(*arguments, **more)
            finally:
                self.asked = None
        except PluginTimeout:
            self.asked = None
            raise PluginError(self.hung[name]) from None
        if name in self.hung:  # it has caught what was to end it
            raise PluginError(self.hung[name])
        return answer


class Registry:
    """The plugins that can be chosen. Unknown and duplicate names raise PluginError when they are named, not later."""

    def __init__(self, factories: Mapping[str, Factory] | None = None, *, complete: bool = True) -> None:
        """``complete``: it knows every plugin that the scheduler has, so that one it does not know is a fault."""
        self._factories: dict[str, Factory] = dict(BUILT_IN if factories is None else factories)
        self._complete = complete
        self.strangers: set[str] = {name for name in self._factories if self._factories[name] is not BUILT_IN.get(name)}
        """Names of plugins that are not built in."""
        self.asking = Asking()

    def add(self, name: str, factory: Factory) -> None:
        """Register a plugin; raises PluginError when the name is taken."""
        if name in self._factories:
            raise PluginError(f"plugin {name!r} is registered twice")
        self._factories[name] = factory
        self.strangers.add(name)

    def add_entry_points(self, found: list[EntryPoint] | None = None) -> None:
        """Register what installed distributions offer in the entry-point group; raises PluginError."""
        for point in sorted(found if found is not None else entry_points(group=GROUP), key=lambda entry: entry.name):
            try:
                factory = point.load()
            except (Exception, SystemExit) as error:
                raise PluginError(f"plugin {point.name!r} cannot be loaded: {error}") from error
            if not callable(factory):
                raise PluginError(f"plugin {point.name!r}: {point.value} is not a class or function that makes it")
            _check_interface(point.name, factory)
            self.add(point.name, factory)

    def create(self, name: str, args: str = "") -> object:
        """A new instance of the plugin, made with ``PluginChoice.args``.

        Raises PluginError when the name is unknown, the arguments are not what it takes, or what is made is no plugin.
        """
        factory = self._factories.get(name)
        if factory is None:
            raise PluginError(f"plugin {name!r} is unknown; known: {', '.join(sorted(self._factories))}")
        if name in self.asking.hung:
            raise PluginError(self.asking.hung[name])
        try:
            given = arguments(name, factory, args)
            plugin = self.asking.call(name, factory, **given) if name in self.strangers else factory(**given)
            called, extends = getattr(plugin, "name", None), isinstance(plugin, HOOKS)
            declared = {part: getattr(plugin, part, ()) for part in ("node_labels", "pod_labels")}
            _check_interface(name, plugin)
        except (InvalidInput, PluginError) as error:
            raise PluginError(str(error)) from None
        except (Exception, SystemExit) as error:
            raise PluginError(f"plugin {name!r} cannot be made: {type(error).__name__}: {error}") from error
        if called != name:
            raise PluginError(f"plugin {name!r} says that its name is {called!r}; allowed: {name!r}")
        if not extends:
            raise PluginError(f"plugin {name!r} extends nothing: it has no method of tangram.decide.hooks")
        for part, keys in declared.items():
            if not isinstance(keys, tuple | list) or not all(isinstance(key, str) for key in keys):
                raise PluginError(f"plugin {name!r}: {part}: {keys!r} is not allowed; allowed: a tuple of label keys")
        return plugin

    def reads_of(self, choices: Iterable[PluginChoice]) -> Reads:
        """The labels that these plugins read; one that cannot be had reads none."""
        nodes, pods = set[str](), set[str]()
        for choice in choices:
            try:
                plugin: Any = self.create(choice.name, choice.args)
            except PluginError:
                continue  # whoever asks it something names the fault
            nodes.update(getattr(plugin, "node_labels", ()))
            pods.update(getattr(plugin, "pod_labels", ()))
        return Reads(tuple(sorted(nodes)), tuple(sorted(pods)))

    def may_forbid(self, name: str) -> bool:
        """Whether a plugin that cannot be had might have forbidden nodes: what it has been is seen of a class only."""
        factory = self._factories.get(name)
        if factory is None:
            return self._complete
        return not isinstance(factory, type) or hasattr(factory, "allow")

    def in_part(self) -> "Registry":
        """The same plugins, where those that are not among them may be there for the scheduler."""
        found = Registry(self._factories, complete=False)
        found.asking = self.asking
        return found

    def names(self) -> tuple[str, ...]:
        """Names that can be chosen."""
        return tuple(sorted(self._factories))


def _check_interface(name: str, plugin: object) -> None:
    """Raise PluginError for a plugin that states another version of the interface than the one that there is."""
    stated = getattr(plugin, "interface", 1)
    if stated != INTERFACE:
        raise PluginError(
            f"plugin {name!r}: interface: {stated!r} is not allowed; allowed: {INTERFACE}, which is the version of "
            "tangram.decide.hooks here"
        )
