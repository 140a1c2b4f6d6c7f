"""The production cycle turning in a simulated world: what ``scheduler.live`` is to a cluster."""

from tangram.api.objects import Node, Pod
from tangram.errors import TangramError
from tangram.plan import Evict, Hold, Place, Plan
from tangram.scheduler.cycle import Cycle
from tangram.simulate.world import Answer, World

_RETRY_SECONDS = 1
"""Virtual seconds after which a write that did not hold makes the scheduler look again."""


class Loop:
    """Feeds a cycle what the world shows and writes its plans into the world, telling it how each write ended."""

    def __init__(self, world: World, cycle: Cycle) -> None:
        self.world, self.cycle = world, cycle
        self.holds: dict[str, Hold] = {}
        """By uid, why a pod waits; as last told."""
        self._awake = True
        self._next_look = 0
        self.watch = world.watch(self._on_node, self._on_pod)
        """What this scheduler is shown of nodes and pods."""

    def turn(self) -> Plan:
        """Look once, decide, and write."""
        self._awake = False
        plan = self.cycle.decide(self.world.clock.now)
        for place in plan.place:
            self._bind(place)
        for evict in plan.evict:
            self._evict(evict)
        for hold in plan.hold:
            self.holds[hold.pod.uid] = hold
        if plan.again:
            self._awake = True
        self._look_again_at(self.cycle.next_look)
        return plan

    def settle(self, turns: int = 1000) -> None:
        """Turn until nothing asks for a look any more, within the present second; raises TangramError if it never ends.

        A pod may still wait: it fits nowhere, or its binding failed and is tried again in a later second.
        """
        for _ in range(turns):
            if not self._awake:
                return
            self.turn()
        raise TangramError(f"the scheduler has not come to rest after {turns} turns at second {self.world.clock.now}")

    def run(self, until: int) -> None:
        """Let the world go on to a second and the scheduler follow every change in it."""
        self.settle()
        while (moment := self.world.next_moment()) is not None and moment <= until:
            self.world.step()
            self.settle()
        self.world.run(until)

    def wake(self) -> None:
        """Look again: something has changed that this loop is not shown, a policy say."""
        self._awake = True

    def _bind(self, place: Place) -> None:
        self.holds.pop(place.pod.uid, None)
        answer = self.world.bind(place)
        held = answer is Answer.DONE
        if not held and answer in (Answer.LOST, Answer.UNANSWERED):
            pod = self.world.find(place.pod)
            held = pod is not None and pod.spec.node_name == place.node
        self.cycle.settle(place, held=held)
        if not held:
            self._look_again_later()

    def _evict(self, evict: Evict) -> None:
        answer = self.world.evict(evict)
        if answer in (Answer.REFUSED, Answer.LOST):
            self.cycle.eviction_failed(evict)
        if answer is not Answer.DONE:
            self._look_again_later()

    def _look_again_at(self, moment: int) -> None:
        """Be awake at a moment, unless a look is due before; a live scheduler looks every few seconds anyway."""
        now = self.world.clock.now
        if moment > now and not now < self._next_look <= moment:
            self._next_look = moment
            self.world.schedule(moment, self.wake)

    def _look_again_later(self) -> None:
        self.world.schedule(self.world.clock.now + _RETRY_SECONDS, self.wake)

    def _on_pod(self, old: Pod | None, new: Pod | None) -> None:
        self.cycle.observe_pod(old, new)
        if new is None or new.metadata.deletion_timestamp:
            if old is not None:
                self.holds.pop(old.metadata.uid, None)
            self._awake = True
        elif not new.spec.node_name:
            self._awake = True

    def _on_node(self, old: Node | None, new: Node | None) -> None:
        if new is not None:
            self.cycle.builder.put_node(new)
        elif old is not None:
            self.cycle.builder.remove_node(old.metadata.name)
        self._awake = True
