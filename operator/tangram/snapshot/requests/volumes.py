"""Persistent volumes: which nodes the claims of a pod allow, and which claims it still waits for.

Nothing is known until ``start`` is called: then all claims, volumes and classes have been listed once, and a claim that
was not listed does not exist. Before that, pods with claims wait.

A volume that is made only once its pod's node is known is asked for by an annotation on the claim. From then on the pod
can go nowhere else, until the volume is there or whoever makes it takes the annotation away: then it could not be made,
and a node is chosen anew. This is how kube-scheduler goes about it.
"""

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import TypeVar

from tangram.api import names
from tangram.api.objects import Metadata, Node, NodeSelector, Pod
from tangram.api.storage import PersistentVolume, PersistentVolumeClaim, StorageClass
from tangram.snapshot.requests import existing
from tangram.snapshot.requests.driver_volumes import DriverVolumes
from tangram.snapshot.requests.failures import Failures
from tangram.snapshot.requests.free_volumes import FreeVolumes, Kind
from tangram.snapshot.requests.provisioning import (
    BIND_COMPLETED,
    SELECTED_NODE,
    chosen_node,
    given,
    is_bound,
    is_of,
    provisioned,
)
from tangram.snapshot.requests.reach import NO_LIMITS, AskedOfNode, Reach
from tangram.snapshot.requests.reaching import allowed_by, only, selectors_of
from tangram.snapshot.requests.shared_claims import SharedClaim, SharedClaims
from tangram.snapshot.requests.touched import ClaimKey, TouchedClaims, claims_of, key_of

CLAIM_ANNOTATIONS = (SELECTED_NODE, BIND_COMPLETED)
"""What is read of a claim's annotations."""
_NO_CLASS = StorageClass(Metadata(""))
_DELAYED = "WaitForFirstConsumer"
_MOST_MOVES = 200
"""Volumes that are looked at so that one claim of a decision gets another's."""
_NONE_SUITS = "claim {} is not bound, and no free volume suits it"

K = TypeVar("K")
V = TypeVar("V")


class VolumeTable:
    """Claims, volumes and classes by name."""

    def __init__(self, nodes: Container[str]) -> None:
        """``nodes``: the names of those that are there, whenever they are asked for."""
        self._nodes = nodes
        self.started = False
        self.touched = TouchedClaims()
        self._claims: dict[ClaimKey, PersistentVolumeClaim] = {}
        self._volumes: dict[str, PersistentVolume] = {}
        self._classes: dict[str, StorageClass] = {}
        self._free: dict[str, dict[str, PersistentVolume]] = {}
        """Class -> name -> volumes of it that belong to nobody."""
        self.free = FreeVolumes()
        self._kept: dict[ClaimKey, dict[str, PersistentVolume]] = {}
        """Claim -> name -> volumes that name it."""
        self._found: dict[object, list[NodeSelector] | None] = {}
        self._pools: dict[object, list[PersistentVolume]] = {}
        """What was found for claims that are alike, until volumes or classes change."""
        self._promised: dict[str, ClaimKey] = {}
        """Volume -> the claim that it has been chosen for, until the volume shows it."""
        self._choices: dict[ClaimKey, str] = {}
        """The other way round."""
        self.drivers = DriverVolumes(self._claims, self._volumes, self._classes)
        self._ignored = False
        self.failures = Failures()
        self._chosen: dict[ClaimKey, str] = {}
        """Claim -> the node that has been chosen for it, while its volume is not there."""
        self._shared = SharedClaims(self._claims)
        self._reaches: dict[object, tuple[NodeSelector, ...]] = {}
        """By the likeness of claims the nodes that can reach one of the volumes that they may get, likewise."""

    def note_together(self, key: ClaimKey, together: bool) -> None:
        """Whether several members of one gang name the claim."""
        if self._shared.note(key, together):
            self.touched.again(key)
            self._forget_found()

    def shared_claims(self) -> Iterator[tuple[ClaimKey, SharedClaim]]:
        """Claims of several members of one gang whose volumes are not there."""
        for key in self._shared.keys:
            claim = self._claims.get(key)
            if claim is not None and self._is_late(claim):
                node, is_made, of = chosen_node(claim), self.makes(key), claim.spec.storage_class_name or ""
                volumes = None if is_made or self._own(claim) else (of, len(self._pool(claim)))
                reaches = () if node else self._reaches_of(claim)
                yield key, SharedClaim(claim.metadata.name, reaches, is_made, node, volumes)

    def _reaches_of(self, claim: PersistentVolumeClaim) -> tuple[NodeSelector, ...]:
        """The nodes that can reach one of the volumes that the claim may get, as ``existing.nodes_of``."""
        if existing.makes_volumes(self._class_of(claim)):
            return ()
        if own := self._own(claim):  # it is nobody else's, and none of those that are left to choose from
            return existing.nodes_of([own, *self._pool(claim)])
        likeness = existing.likeness(claim)
        if likeness not in self._reaches:
            self._reaches[likeness] = existing.nodes_of(self._pool(claim))
        return self._reaches[likeness]

    def start(self) -> None:
        """From now on what has not been listed does not exist."""
        self.started = True

    def ignore(self) -> None:
        """Nothing can be learned of volumes: take pods as if they had none."""
        self._ignored = True

    def put_claim(self, key: ClaimKey, claim: PersistentVolumeClaim | None) -> None:
        """Take in a claim; None: it is gone."""
        known = self._claims.get(key)
        self.touched.claim(key, known, claim)
        before = chosen_node(known)
        if claim is None or chosen_node(claim) or is_bound(claim):
            self.failures.forget(key)
        elif before:
            self.failures.note(key, before)
        _put(self._claims, key, claim)
        if self._shared.has_changed(key):
            self._forget_found()
        for name in {one.spec.volume_name for one in (known, claim) if one is not None}:
            self._count(name)
        chosen = "" if claim is None or is_bound(claim) else chosen_node(claim)
        _put(self._chosen, key, chosen or None)
        if claim is None:
            self.withdraw(key)

    def concern(self, nodes: Container[str]) -> bool:
        """Whether one of the nodes has been chosen for a volume that is not there."""
        return any(node in nodes for node in self._chosen.values())

    def put_volume(self, name: str, volume: PersistentVolume | None) -> None:
        """Take in a volume; None: it is gone."""
        before = self._volumes.get(name)
        if before is not None:
            self._group(before).pop(name, None)
        if volume is not None:
            self._group(volume)[name] = volume
        if not (self._is_counted(before) and self._is_counted(volume)):
            self._forget_found()
        _put(self._volumes, name, volume)
        if volume is None or volume.spec.claim_ref is not None:
            key = self._promised.pop(name, None)
            if key is not None:
                self._choices.pop(key, None)
                self.touched.again(key)
        changed = self.free.put(name, before, volume, free=volume is not None and self._is_free(name))
        counted = self._is_counted(before or volume) and self._is_counted(volume or before)
        self.touched.volume(name, before, volume, to_class=changed or not counted)

    def put_class(self, name: str, found: StorageClass | None) -> None:
        """Take in a storage class; None: it is gone."""
        self.touched.storage_class(name)
        _put(self._classes, name, found)
        self._forget_found()

    def reach(self, pod: Pod) -> Reach:
        """What the pod's volumes ask of a node, or what it has to wait for."""
        keys = claims_of(pod) if pod.spec.volumes and not self._ignored else {}
        if not keys:
            return NO_LIMITS
        if not self.started:
            return Reach(waits_for=f"claim {next(iter(keys))[1]} is not known yet")
        asked = AskedOfNode()
        for key, mine in keys.items():
            claim = self._claims.get(key)
            why = self._not_ready(key, claim)
            if claim is not None and not why and mine and not is_of(claim, pod):
                why = f"claim {key[1]} has the name of one of its ephemeral volumes, but was not made for this pod"
            together = key in self._shared.keys and names.GANG in pod.metadata.labels
            if claim is None or why or (why := self._add(claim, asked, together=together)):
                return Reach(waits_for=why)
        for node in sorted(asked.chosen):
            if node not in self._nodes:
                return Reach(waits_for=f"its volume is to be made for node {node}, which does not exist")
        found = self._where(sorted(asked.to_make, key=_size))
        if found is None:
            return Reach(waits_for=_NONE_SUITS.format(" and ".join(one.metadata.name for one in asked.to_make)))
        return Reach(
            selectors=(*asked.selectors, *found),
            being_made=asked.late,
            made_for=min(asked.chosen, default=""),
            to_ask=tuple(one.metadata.name for one in sorted(asked.to_ask, key=_size)),
            made=tuple(asked.made),
            by_driver=self.drivers.numbers(pod),
            free=self.free.asked(asked.kinds) if asked.kinds else (),
        )

    def _add(self, claim: PersistentVolumeClaim, asked: AskedOfNode, *, together: bool) -> str:
        """Add what a claim asks of a node; or the sentence that says why its pod has to wait. Of members who name it
        ``together`` one has to be on the node that has been chosen for it, wherever the others are."""
        if not self._is_late(claim):
            asked.selectors += selectors_of(self._volumes.get(claim.spec.volume_name), self._class_of(claim))
            return ""
        asked.late, own = True, self._own(claim)
        if node := chosen_node(claim):
            asked.chosen.add(node)
            asked.selectors += selectors_of(self._volumes.get(claim.spec.volume_name), self._class_of(claim))
            if together:
                asked.made.append(claim.metadata.name)
            else:
                asked.selectors.append(only(node))
            return ""
        if own is None or own.spec.claim_ref is None:
            asked.to_ask.append(claim)
        if own is not None:
            asked.selectors += [where] if (where := existing.affinity_of(own)).node_selector_terms else []
        elif self._is_uncounted(claim):
            asked.to_make.append(claim)
        elif kind := self._kind_of(claim):
            asked.kinds.append(kind)
        else:
            return _NONE_SUITS.format(claim.metadata.name)
        return ""

    def choose(self, key: ClaimKey, node: Node, others: Sequence[Node] = ()) -> str | None:
        """Choose an existing volume for a claim that a node has been chosen for: its name, empty: one is made; None:
        there is none any more. ``others``: nodes from which it should be reached, too."""
        claim = self._claims.get(key)
        if claim is None or chosen_node(claim):
            return None if claim is None else ""
        own = self._own(claim)
        if own is not None and existing.reaches(own, node):
            return own.metadata.name
        self.withdraw(key)
        near = (
            one for one in self.free.near(claim.spec.storage_class_name or "", node) if self._is_free(one.metadata.name)
        )
        pool = (
            self._pool(claim) if self._is_uncounted(claim) else self.free.narrow_first(existing.suitable(claim, near))
        )
        volume = existing.chosen(pool, node, *others) or existing.chosen(pool, node)
        if volume is None:
            return "" if existing.makes_volumes(self._class_of(claim)) else None
        self._promise(key, volume.metadata.name)
        return volume.metadata.name

    def _promise(self, key: ClaimKey, name: str) -> None:
        self._promised[name], self._choices[key] = key, name
        self._is_chosen(name, key)

    def move(self, key: ClaimKey, others: Mapping[ClaimKey, Node], looked_at: set[str]) -> bool:
        """Choose for a claim a volume that has been chosen for one of the ``others``, which gets another one for it;
        False, and nothing is other, where there is none. Each with the node that has been chosen for it; names of
        volumes that have been ``looked_at`` in vain are added."""
        claim, node = self._claims.get(key), others[key]
        if claim is None:
            return False
        reached = self.free.near(claim.spec.storage_class_name or "", node)
        for name in [one.metadata.name for one in self.free.narrow_first(existing.suitable(claim, reached))]:
            holder = self._promised.get(name)
            if len(looked_at) >= _MOST_MOVES or name in looked_at or not (self._is_free(name) or holder in others):
                continue
            looked_at.add(name)
            if holder is None or self.move(holder, others, looked_at):
                self.withdraw(key)
                self._promise(key, name)
                return True
        return False

    def in_turn(self, keys: Iterable[ClaimKey]) -> list[ClaimKey]:
        """Claims, given first come first, in the order in which volumes are to be chosen for them.

        Those that the fewest volumes suit come first, as all of them get one. Claims that are not counted may get none:
        for one of those nobody passes another.
        """
        found, behind = list[tuple[int, int, ClaimKey]](), 0
        for key in keys:
            kind = self._kind_of(self._claims[key]) if key in self._claims else None
            behind += kind is None
            found.append((behind, self.free.number_of(kind), key))
            behind += kind is None
        return [key for *_, key in sorted(found, key=itemgetter(0, 1))]

    def is_to_ask(self, key: ClaimKey) -> bool:
        """Whether a node has to be chosen for the claim, and none has been yet."""
        claim = self._claims.get(key)
        if claim is None or self._not_ready(key, claim) or not self._is_late(claim) or chosen_node(claim):
            return False
        own = self._own(claim)
        return own is None or own.spec.claim_ref is None

    def makes(self, key: ClaimKey) -> bool:
        """Whether a volume is made for the claim once a node is chosen: some classes only have those that exist."""
        claim = self._claims.get(key)
        return claim is None or existing.makes_volumes(self._class_of(claim))

    def chosen_volume(self, key: ClaimKey) -> tuple[PersistentVolume, PersistentVolumeClaim] | None:
        """The existing volume that has been chosen for a claim, and the claim; None: one is made."""
        claim = self._claims.get(key)
        volume = self._volumes.get(self._choices.get(key, ""))
        return (volume, claim) if volume is not None and claim is not None else None

    @property
    def chosen_for(self) -> list[ClaimKey]:
        """The claims for which an existing volume has been chosen that does not show it yet."""
        return list(self._choices)

    def withdraw(self, key: ClaimKey) -> None:
        """What has been chosen for the claim will not be its volume."""
        name = self._choices.pop(key, None)
        if name is not None:
            self._promised.pop(name, None)
            self._is_chosen(name, key)

    def _is_chosen(self, name: str, key: ClaimKey) -> None:
        """The volume has been chosen for the claim, or is not any more."""
        volume = self._volumes.get(name)
        self.touched.again(key)
        self._count(name)
        if volume is not None and not self._is_counted(volume):
            self.touched.volume(name, volume)
            if name not in self._promised:
                self._forget_found()
                return
            self._found, self._reaches = {}, {}
            for pool in self._pools.values():
                if volume in pool:
                    pool.remove(volume)

    def _count(self, name: str) -> None:
        """Count a volume again: it may be somebody's now, or nobody's."""
        volume = self._volumes.get(name)
        if volume is not None and self.free.put(name, volume, volume, free=self._is_free(name)):
            self.touched.storage_class(volume.spec.storage_class_name)

    def _is_free(self, name: str) -> bool:
        """Whether nobody has the volume, or has been promised it."""
        volume = self._volumes[name]
        if volume.spec.claim_ref is not None or name in self._promised or self.touched.is_named(name):
            return False
        return existing.is_available(volume)

    def _is_counted(self, volume: PersistentVolume | None) -> bool:
        """Whether volumes of its class are counted, for all claims: nobody makes them."""
        if volume is None or self.free.is_full(name := volume.spec.storage_class_name):
            return False
        if self._shared.are_of(name):
            return False  # they are not counted
        return not existing.makes_volumes(self._classes.get(volume.spec.storage_class_name, _NO_CLASS))

    def _own(self, claim: PersistentVolumeClaim) -> PersistentVolume | None:
        """The volume that names the claim, or has been chosen for it."""
        key = key_of(claim)
        chosen = self._volumes.get(self._choices.get(key, ""))
        if chosen is not None:
            return chosen
        pool = existing.suitable(claim, self._kept.get(key, {}).values())
        return pool[0] if existing.is_promised(claim, pool) else None

    def _is_uncounted(self, claim: PersistentVolumeClaim) -> bool:
        """Whether volumes are made for the claim, or those that suit it are of a kind that is not counted."""
        if existing.makes_volumes(self._class_of(claim)) or key_of(claim) in self._shared.keys:
            return True
        kind = self.free.kind_of(claim)
        return kind is not None and not self.free.counts(kind)

    def _kind_of(self, claim: PersistentVolumeClaim) -> Kind | None:
        """As what the claim counts; None: no free volume suits it, or volumes are made for it."""
        looked_for = key_of(claim) in self._shared.keys or existing.makes_volumes(self._class_of(claim))
        kind = None if looked_for else self.free.kind_of(claim)
        if kind is None or not self.free.counts(kind):
            return None
        if self.free.count(kind, self._is_free):
            self.touched.storage_class(kind.storage_class)
        return kind if self.free.number_of(kind) else None

    def _where(self, claims: list[PersistentVolumeClaim]) -> list[NodeSelector] | None:
        """Which nodes suit claims for which a volume has yet to be made or chosen, the smallest claim first."""
        if not claims:
            return []
        key = tuple(map(existing.likeness, claims))
        if key not in self._found:
            self._found[key] = existing.selectors([(self._pool(one), self._class_of(one)) for one in claims])
        return self._found[key]

    def _pool(self, claim: PersistentVolumeClaim) -> existing.Pool:
        """The volumes that the claim may get, without those that have been chosen for others."""
        likeness = existing.likeness(claim)
        if likeness not in self._pools:
            free = self._free.get(claim.spec.storage_class_name or "", {})
            self._pools[likeness] = existing.suitable(claim, (free[name] for name in free if self._is_free(name)))
        return self._pools[likeness]

    def _group(self, volume: PersistentVolume) -> dict[str, PersistentVolume]:
        """The volumes among which one is looked for."""
        reference = volume.spec.claim_ref
        if reference is not None:
            return self._kept.setdefault((reference.namespace, reference.name), {})
        return self._free.setdefault(volume.spec.storage_class_name, {})

    def _forget_found(self) -> None:
        self._found, self._pools, self._reaches = {}, {}, {}

    def make(self, pod: Pod, node: str) -> None:
        """A forecast: let the volumes that the pod gets only once its node is chosen be there; one that members of a
        gang share is hoped to be reached from all their places."""
        for key in claims_of(pod):
            claim = self._claims.get(key)
            if claim is not None and self._is_late(claim):
                own = self._own(claim)
                where = only(node) if key not in self._shared.keys else allowed_by(self._class_of(claim))
                bound, volume = provisioned(claim, where) if own is None else given(claim, own)
                self.put_volume(volume.metadata.name, volume)
                self.put_claim(key, bound)

    def _not_ready(self, key: ClaimKey, claim: PersistentVolumeClaim | None) -> str:
        name = f"claim {key[1]}"
        if claim is None:
            return f"{name} does not exist (yet)"
        if claim.status.phase == "Lost":
            return f"{name} has lost its volume {claim.spec.volume_name}"
        if claim.metadata.deletion_timestamp:
            return f"{name} is being deleted"
        if is_bound(claim):
            known = claim.spec.volume_name in self._volumes
            return "" if known else f"{name} is bound to volume {claim.spec.volume_name}, which does not exist"
        if self._is_late(claim) and not (chosen_node(claim) and not existing.makes_volumes(self._class_of(claim))):
            return ""
        made_by = claim.spec.storage_class_name
        nobody = f'; storage class "{made_by}" does not exist' if made_by and made_by not in self._classes else ""
        return f"{name} waits for its volume{nobody}"

    def _is_late(self, claim: PersistentVolumeClaim) -> bool:
        """Whether the claim has no volume yet, and gets one only once a node is chosen."""
        if self._class_of(claim).volume_binding_mode != _DELAYED or is_bound(claim):
            return False
        return not claim.spec.volume_name or bool(chosen_node(claim))

    def _class_of(self, claim: PersistentVolumeClaim) -> StorageClass:
        return self._classes.get(claim.spec.storage_class_name or "", _NO_CLASS)


def _size(claim: PersistentVolumeClaim) -> int:
    return existing.size_of(claim.spec.resources.requests)


def _put(table: dict[K, V], key: K, value: V | None) -> None:
    if value is None:
        table.pop(key, None)
    else:
        table[key] = value
