"""What is remembered from one decision to the next: nothing but work that need not be done again."""

from tangram.decide.chosen import Chosen
from tangram.decide.journal import Journal
from tangram.decide.pool import Pool
from tangram.decide.registry import Registry
from tangram.decide.rest import Rest
from tangram.decide.scores import Scores
from tangram.snapshot.arrays import Snapshot


class Memory:
    """Pool and scores as the last decision left them. Forgetting everything changes no answer."""

    def __init__(self, registry: Registry | None = None) -> None:
        self._plugins = Chosen(registry or Registry())
        self._dimensions: tuple[int, ...] = ()
        self._known: tuple[Pool, Scores] | None = None
        self._registry = registry
        self._ahead: Memory | None = None
        self.rest: Rest | None = None
        """The last decision, if it changed nothing."""

    @property
    def ahead(self) -> "Memory":
        """What is remembered of decisions that were made ahead, on what will be true: another pool."""
        if self._ahead is None:
            self._ahead = Memory(self._registry)
        return self._ahead

    def observe(self, snapshot: Snapshot) -> tuple[Pool, Scores]:
        """The pool and what is known of it, brought up to date with a snapshot, for one decision."""
        nodes = snapshot.nodes
        dimensions = (snapshot.generation, *nodes.free.shape, *nodes.device_free.shape)
        if self._known is None or dimensions != self._dimensions:
            self._dimensions = dimensions
            self._plugins.forget()
            pool = Pool(snapshot, Journal())
            self._known = pool, Scores(snapshot, pool, self._plugins)
        pool, scores = self._known
        scores.observe(snapshot, pool.follow(snapshot))
        return pool, scores
