"""What a scheduler reads besides nodes and pods, from a simulated world: its policy, volumes and inventories."""

from collections.abc import Callable
from typing import Any

from tangram.scheduler.policies import Inventory, has_device_at_risk, has_known_holes, link_distances, node_devices
from tangram.simulate.watching import Handler, Kind
from tangram.snapshot.build import Builder


def surroundings(builder: Builder, changed: Callable[[], None]) -> dict[Kind, Handler]:
    """Handlers for ``World.watch`` that keep the builder's view true; ``changed`` asks for a cycle at the cluster.

    A claim, volume or class that has not been shown does not exist from now on.
    """

    def on_policy(_old: Any, new: Any) -> None:
        builder.set_policy(new)
        changed()

    def on_inventory(old: Inventory | None, new: Inventory | None) -> None:
        known = new or old
        if known is not None:
            name = known.metadata.name
            builder.set_inventory(name, node_devices(new))
            builder.set_links(name, link_distances(new))
            builder.set_at_risk(name, has_device_at_risk(new), has_known_holes(new))
            changed()

    def storage(put: Callable[[Any, Any], None], *, namespaced: bool) -> Handler:
        def on_change(old: Any, new: Any) -> None:
            metadata = (new or old).metadata
            put((metadata.namespace, metadata.name) if namespaced else metadata.name, new)
            changed()

        return on_change

    builder.volumes_are_known()
    return {
        Kind.POLICY: on_policy,
        Kind.INVENTORY: on_inventory,
        Kind.STORAGE_CLASS: storage(builder.put_class, namespaced=False),
        Kind.DRIVERS: storage(builder.put_drivers, namespaced=False),
        Kind.VOLUME: storage(builder.put_volume, namespaced=False),
        Kind.CLAIM: storage(builder.put_claim, namespaced=True),
    }
