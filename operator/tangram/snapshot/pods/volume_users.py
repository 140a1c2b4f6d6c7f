"""Pods and their volumes: who is read again when volumes change, and which existing volumes are chosen for whom."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable
from operator import itemgetter

from tangram.api import names
from tangram.api.objects import Node, Pod
from tangram.plan import Claim, Provision
from tangram.snapshot.nodes.nodes import NodeTable
from tangram.snapshot.pods.ledger import Ledger
from tangram.snapshot.pods.pods import PodRow
from tangram.snapshot.pods.shapes import ShapeTable
from tangram.snapshot.requests.reach import Reach
from tangram.snapshot.requests.shared_claims import SharedClaim
from tangram.snapshot.requests.touched import ClaimKey, claims_of
from tangram.snapshot.requests.volumes import VolumeTable


class _Users:
    """Pods that name one claim."""

    def __init__(self) -> None:
        self.uids: dict[str, str] = {}
        """Uid of each -> the name of its gang; empty: it stands alone."""
        self._members: Counter[str] = Counter()
        self._several = 0

    def add(self, uid: str, gang: str) -> None:
        self.remove(uid)
        self.uids[uid] = gang
        if gang:
            self._members[gang] += 1
            self._several += self._members[gang] == 2

    def remove(self, uid: str) -> None:
        gang = self.uids.pop(uid, "")
        if gang:
            self._several -= self._members[gang] == 2
            self._members[gang] -= 1
            if not self._members[gang]:
                del self._members[gang]

    @property
    def together(self) -> bool:
        """Whether several of them are of one gang."""
        return self._several > 0


class VolumeUsers:
    """Keeps pods, the places that they hold and the nodes in step with volumes.

    A volume is chosen for a claim for as long as a place is held that counts on it: it is free again with the place.
    """

    def __init__(
        self,
        volumes: VolumeTable,
        ledger: Ledger,
        nodes: NodeTable,
        shapes: ShapeTable,
        refresh: Callable[[Iterable[PodRow]], None],
    ) -> None:
        """``refresh`` reads pods again."""
        self._running, self._shapes = ledger.running, shapes
        self._volumes, self._pods, self._claims, self._nodes = volumes, ledger.pods, ledger.claims, nodes
        self._pending = ledger.pending
        self._refresh = refresh
        self._users: dict[ClaimKey, _Users] = {}
        """Claim -> who names it."""
        self._used: dict[str, tuple[ClaimKey, ...]] = {}
        """The claims of each of these pods, by uid: a pod that is leaving is forgotten otherwise before it is gone."""
        self.all_touched = False
        """Whether all claims matter anew."""
        nodes.attached.held_by, nodes.attached.free = self._held_by, volumes.free

    def note(self, pod: Pod) -> None:
        """The pod uses its claims."""
        keys = self._used[pod.metadata.uid] = tuple(claims_of(pod))
        gang = pod.metadata.labels.get(names.GANG, "")
        for key in keys:
            users = self._users.setdefault(key, _Users())
            users.add(pod.metadata.uid, gang)
            self._volumes.note_together(key, users.together)

    def forget(self, uid: str) -> None:
        """The pod uses no claim any more."""
        for key in self._used.pop(uid, ()):
            users = self._users[key]
            users.remove(uid)
            self._volumes.note_together(key, users.together)
            if not users.uids:
                del self._users[key]

    def shared_by_gangs(self) -> dict[int, list[SharedClaim]]:
        """Gang row -> claims that several of its members share and whose volumes are not theirs yet: those first of a
        class whose volumes are there, and that most of them name."""
        found: dict[int, list[SharedClaim]] = {}
        for key, claim in sorted(self._volumes.shared_claims(), key=itemgetter(0)):
            rows = Counter(self._pods[uid].gang_row for uid in self._of(key) if uid in self._pods)
            for gang, number in rows.items():
                if gang >= 0 and number > 1:
                    found.setdefault(gang, []).append(claim._replace(members=number))
        for claims in found.values():
            claims.sort(key=_rank, reverse=True)
        return found

    def _of(self, key: ClaimKey) -> Iterable[str]:
        """Uids of the pods that name a claim."""
        users = self._users.get(key)
        return users.uids if users is not None else ()

    def choose(self, choices: Iterable[Provision], held: Iterable[Claim] = ()) -> None:
        """Choose existing volumes for claims, where some are to be had on the chosen nodes. Where there is none any
        more and nobody makes one, the place is given up, and with it what was chosen for others of the pod's claims, or
        of its gang's.

        Also for those for whom others leave, by ``held``, if nobody makes volumes of the class: who asks meanwhile is
        not to have others evicted for the same volume."""
        early = self._early(held)
        by_claim = {(choice.pod.namespace, choice.claim): choice for choice in choices} | early
        self._choose_all(by_claim)
        columns = [self._nodes.columns.of[name] for name in self._volumes.free.named if name in self._nodes.columns.of]
        for uid in {choice.pod.uid for choice in by_claim.values()} if columns else ():
            self._claims.count_by_name(uid, columns)
        for uid in {choice.pod.uid for choice in early.values()}:
            self._claims.keep_volumes(uid)
        self.withdraw()

    def _early(self, held: Iterable[Claim]) -> dict[ClaimKey, Provision]:
        """Claims for which existing volumes are chosen before the places of their pods are free, and the nodes."""
        places = [place for claim in held if not claim.volumes for place in claim.places]
        asked = ((place, key) for place in places for key in self._used.get(place.pod.uid, ()))
        return {
            key: Provision(place.pod, key[1], place.node)
            for place, key in asked
            if self._volumes.is_to_ask(key) and not self._volumes.makes(key)
        }

    def _choose_all(self, by_claim: dict[ClaimKey, Provision]) -> None:
        nodes, lost, in_vain = dict[ClaimKey, Node](), set[str](), set[str]()
        for key in self._volumes.in_turn(sorted(by_claim, key=lambda key: self._place_in_line(by_claim[key].pod.uid))):
            who, node = by_claim[key].pod.uid, self._nodes.object_of(by_claim[key].node)
            if who in lost:
                continue
            if node is not None:
                nodes[key] = node
                if self._volumes.choose(key, node, self._places_of(key)) is not None:
                    continue
                if self._volumes.move(key, nodes, in_vain):
                    in_vain.clear()
                    continue
                del nodes[key]
            lost.update(self._claims.give_up(who))

    def _places_of(self, key: ClaimKey) -> list[Node]:
        """The nodes on which places are held for pods that name the claim."""
        held = self._claims.held
        names = {held[uid].spots[uid].node for uid in self._of(key) if uid in held}
        return [node for node in map(self._nodes.object_of, sorted(names)) if node is not None]

    def _place_in_line(self, uid: str) -> tuple[int, ...]:
        """By priority, age and name: turns among queues may have been others."""
        row, pending = self._pods.get(uid), self._pending.arrays
        slot = row.slot if row is not None else -1
        return (-int(pending.priority[slot]), int(pending.created[slot]), int(pending.tie[slot])) if slot >= 0 else ()

    def withdraw(self) -> None:
        """Let volumes go that were chosen for claims of pods for which no place is held any more."""
        for key in self._volumes.chosen_for:
            if not any(map(self._claims.keeps_volumes, self._of(key))):
                self._volumes.withdraw(key)

    def follow(self) -> set[str]:
        """Read again the pods that wait and whose volumes, or what there is of volumes for them, are others, and count
        what is left of volumes on nodes; uids of all these pods."""
        self.withdraw()
        found = set[str]()
        while touched := self._volumes.touched.take() | (self._users.keys() if self.all_touched else set()):
            self.all_touched = False
            uids = {uid for key in touched for uid in self._of(key)}
            rows = [self._pods[uid] for uid in sorted(uids) if uid in self._pods]
            if rows:
                self._refresh([row for row in rows if row.slot >= 0])
                self._nodes.recount_volumes(row.node for row in rows if row.holding is not None)
            found |= uids
        if self._nodes.attached.counts:
            self._nodes.recount_volumes(self._nodes.find(self._volumes.free.take_moved()))
            for node, shared in self._nodes.attached.take_moved().items():
                for uid in self._nodes.usage_of(node):
                    self._note_shared(uid, node, shared)
        return found

    def _note_shared(self, uid: str, node: str, shared: Collection[tuple[str, str]]) -> None:
        """Say what a pod gives back that has some of the volumes that several pods of its node have."""
        row, gives = self._pods.get(uid), -1
        if row is None or row.pod is None or not row.pod.spec.volumes:
            return
        if shared and not self._held_by(uid).isdisjoint(shared):
            alone = self._shapes.row_of_amounts(
                row.pod, Reach(by_driver=self._volumes.drivers.numbers(row.pod, shared))
            )
            gives = alone if isinstance(alone, int) else -1
        if row.gives != (node, gives):
            row.gives = node, gives
            self._running.follow(row)

    def hold_for(self, claim: ClaimKey, node: str) -> bool:
        """Whether a place on the node is held for a pod that waits for this claim's volume, and no node has been chosen
        for that yet."""
        rows = (self._pods[uid] for uid in self._of(claim) if self._claims.waits_for_volumes(uid, node))
        return any(row.pod is not None for row in rows) and self._volumes.is_to_ask(claim)

    def _held_by(self, uid: str) -> frozenset[tuple[str, str]]:
        row = self._pods.get(uid)
        return self._volumes.drivers.held_by(row.pod) if row is not None and row.pod is not None else frozenset()


def _rank(claim: SharedClaim) -> tuple[bool, int]:
    return bool(claim.reaches), claim.members
