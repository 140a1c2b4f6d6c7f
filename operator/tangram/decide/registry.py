"""Plugin name -> factory: the built-in table, and entry points of the group ``tangram.plugins``."""

from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points

from tangram.decide.hooks import HOOKS
from tangram.decide.plugins.best_fit import BestFit
from tangram.decide.plugins.bid_price import BidPrice
from tangram.decide.plugins.binpack import Binpack
from tangram.decide.plugins.clustering import GpuClustering
from tangram.decide.plugins.dot_product import DotProduct
from tangram.decide.plugins.fragmentation import Fragmentation
from tangram.decide.plugins.packing import GpuPacking
from tangram.decide.plugins.random_fit import RandomFit
from tangram.decide.plugins.spread import Spread
from tangram.errors import PluginError

Factory = Callable[[], object]
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


class Registry:
    """The plugins that can be chosen. Unknown and duplicate names raise PluginError when they are named, not later."""

    def __init__(self, factories: Mapping[str, Factory] | None = None) -> None:
        self._factories: dict[str, Factory] = dict(BUILT_IN if factories is None else factories)

    def add(self, name: str, factory: Factory) -> None:
        """Register a plugin; raises PluginError when the name is taken."""
        if name in self._factories:
            raise PluginError(f"plugin {name!r} is registered twice")
        self._factories[name] = factory

    def add_entry_points(self, found: list[EntryPoint] | None = None) -> None:
        """Register what installed distributions offer in the entry-point group; raises PluginError."""
        for point in sorted(found if found is not None else entry_points(group=GROUP), key=lambda entry: entry.name):
            try:
                factory = point.load()
            except Exception as error:
                raise PluginError(f"plugin {point.name!r} cannot be loaded: {error}") from error
            if not callable(factory):
                raise PluginError(f"plugin {point.name!r}: {point.value} is not a class or function that makes it")
            self.add(point.name, factory)

    def create(self, name: str) -> object:
        """A new instance of the plugin; raises PluginError when the name is unknown or what is made is no plugin."""
        factory = self._factories.get(name)
        if factory is None:
            raise PluginError(f"plugin {name!r} is unknown; known: {', '.join(sorted(self._factories))}")
        try:
            plugin = factory()
            called, extends = getattr(plugin, "name", None), isinstance(plugin, HOOKS)
        except Exception as error:
            raise PluginError(f"plugin {name!r} cannot be made: {type(error).__name__}: {error}") from error
        if called != name:
            raise PluginError(f"plugin {name!r} says that its name is {called!r}; allowed: {name!r}")
        if not extends:
            raise PluginError(f"plugin {name!r} extends nothing: it has no method of tangram.decide.hooks")
        return plugin

    def names(self) -> tuple[str, ...]:
        """Names that can be chosen."""
        return tuple(sorted(self._factories))
