"""Volumes first: where a volume is made only once its pod's node is known, the place is held until it is there.

Of a gang all places are held together, so that none of its members is bound before all of them can be.
"""

from tangram.decide.draft import Draft
from tangram.plan import Claim, Place, Provision
from tangram.snapshot.arrays import Snapshot


def hold_for_volumes(snapshot: Snapshot, draft: Draft) -> None:
    """Turn the placements of units whose volumes are not there into claims, and have those volumes made."""
    pending = snapshot.pending
    slots = (one.slot for one in draft.placed) if pending.volumes else ()
    missing = {pending.names[slot].uid: pending.volumes[slot] for slot in slots if slot in pending.volumes}
    if not missing:
        return
    units: dict[str, list[Place]] = {}
    for one in draft.placed:
        units.setdefault(one.place.gang or one.place.pod.uid, []).append(one.place)
    held = {unit for unit, places in units.items() if any(place.pod.uid in missing for place in places)}
    draft.placed[:] = [one for one in draft.placed if (one.place.gang or one.place.pod.uid) not in held]
    asked: set[tuple[str, str]] = set()
    for unit in sorted(held):
        places = tuple(units[unit])
        draft.claims.append(Claim(places, volumes=tuple(place.pod for place in places if place.pod.uid in missing)))
        for place in places:
            for claim in missing.get(place.pod.uid, ()):
                if (place.pod.namespace, claim) not in asked:  # several pods may name one claim
                    asked.add((place.pod.namespace, claim))
                    draft.provision.append(Provision(place.pod, claim, place.node))
