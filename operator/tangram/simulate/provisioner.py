"""What becomes of claims in a simulated cluster: drivers make volumes or do not, controllers bind and free them."""

from functools import partial
from typing import TYPE_CHECKING

from tangram.api.objects import Pod
from tangram.simulate import storage
from tangram.simulate.answers import Answer
from tangram.simulate.storage import Driver
from tangram.simulate.watching import Kind
from tangram.snapshot.requests.provisioning import chosen, given
from tangram.snapshot.requests.touched import ClaimKey, claims_of

if TYPE_CHECKING:
    from tangram.simulate.world import World


class Provisioner:
    """Drivers and controllers of volumes, of a world."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self.drivers: dict[str, Driver] = {}
        """By storage class."""
        self._given_back: dict[ClaimKey, int] = {}

    def choose_node(self, claim: ClaimKey, node: str) -> Answer:
        """A scheduler has written a node on a claim: its volume comes in its time, or the choice is given back."""
        world, found = self._world, self._world.claims.get(claim)
        if found is None:
            return Answer.GONE
        world.put(Kind.CLAIM, claim, chosen(found, node))
        driver = self._driver_of(claim)
        if driver.seconds is not None:
            made = partial(self._provision, claim, found.metadata.uid, node)
            world.schedule(world.clock.now + driver.seconds, made)
        return Answer.DONE

    def choose_volume(self, claim: ClaimKey, name: str) -> Answer:
        """A scheduler has written a claim on a volume: they are bound a second later."""
        world, found, volume = self._world, self._world.claims.get(claim), self._world.volumes.get(name)
        if found is None or volume is None:
            return Answer.GONE
        if volume.spec.claim_ref is not None:
            return Answer.CONFLICT
        world.put(Kind.VOLUME, name, storage.promised(volume, found))
        world.schedule(world.clock.now + 1, partial(self._bind, claim, found.metadata.uid, name))
        return Answer.DONE

    def is_gone(self, pod: Pod) -> None:
        """A pod is gone that nobody makes again: the claims to local volumes that it had alone go with it."""
        if pod.spec.volumes and any(driver.local for driver in self.drivers.values()):
            self._world.schedule(self._world.clock.now + 1, partial(self._reclaim, pod))

    def _driver_of(self, claim: ClaimKey) -> Driver:
        found = self._world.claims.get(claim)
        return self.drivers.get((found.spec.storage_class_name if found is not None else "") or "", Driver())

    def _provision(self, key: ClaimKey, uid: str, name: str) -> None:
        world, found, node = self._world, self._world.claims.get(key), self._world.nodes.get(name)
        if found is None or found.metadata.uid != uid or found.spec.volume_name:
            return
        if node is None or self._given_back.get(key, 0) < self._driver_of(key).refusals:
            self._given_back[key] = self._given_back.get(key, 0) + 1
            world.put(Kind.CLAIM, key, chosen(found, None))
            return
        bound, volume = storage.made_here(found, node)
        world.put(Kind.VOLUME, volume.metadata.name, volume)
        world.put(Kind.CLAIM, key, bound)

    def _bind(self, key: ClaimKey, uid: str, name: str) -> None:
        world, found, volume = self._world, self._world.claims.get(key), self._world.volumes.get(name)
        if found is not None and volume is not None and found.metadata.uid == uid and not found.spec.volume_name:
            bound, mine = given(found, volume)
            world.put(Kind.VOLUME, name, mine)
            world.put(Kind.CLAIM, key, bound)

    def _reclaim(self, pod: Pod) -> None:
        world = self._world
        used = {key for other in world.pods.values() if other.spec.volumes for key in claims_of(other)}
        for key in claims_of(pod).keys() - used:
            if key not in world.claims or not self._driver_of(key).local:
                continue
            world.put(Kind.CLAIM, key, None)
            for name, volume in list(world.volumes.items()):
                reference = volume.spec.claim_ref
                if reference is not None and (reference.namespace, reference.name) == key:
                    world.put(Kind.VOLUME, name, storage.freed(volume))
