"""Pods that are not tried for now whatever is free, and why: refused ones, and those whose place is held for volumes.

They stay in their slots and are not waiting meanwhile. What one member of a gang has to wait for, all wait for. Who was
refused takes free places only for longer than that (``refusals``): nobody is evicted for what cannot be had.
"""

from collections import Counter
from collections.abc import Collection, Iterable

import numpy as np

from tangram.api import names
from tangram.plan import PodName, Reason
from tangram.snapshot.gangs.gangs import GangTable
from tangram.snapshot.pods.access import BY_POLICY
from tangram.snapshot.pods.claim import Claim
from tangram.snapshot.pods.claims import VOLUMES_GIVEN_UP_AFTER
from tangram.snapshot.pods.ledger import Ledger
from tangram.snapshot.pods.pods import PodRow
from tangram.snapshot.requests.volumes import VolumeTable
from tangram.units import rfc3339

_Why = tuple[str, str]
"""(reason, sentence)."""


SPARES_OTHERS = "nobody is preempted for it until"
"""What a pod reads that takes free places only, after why."""
_REFUSED, _IN_VAIN = "as it was refused before", "as what was made free for it came to nothing"
_TOO_LATE = f"the volumes were not there after {VOLUMES_GIVEN_UP_AFTER} s"


class Suspension:
    """Keeps out of the line whoever is not to be tried."""

    def __init__(self, ledger: Ledger, gangs: GangTable, volumes: VolumeTable) -> None:
        self.refusals, self.rejections = ledger.refusals, ledger.rejections
        self._pods, self._pending, self._claims = ledger.pods, ledger.pending, ledger.claims
        self._gangs, self._volumes = gangs, volumes
        self._out: set[str] = set()
        self._sparing: set[str] = set()
        """Uids of pods for which nobody is evicted."""

    def refresh(self, now: int, touched: set[str]) -> None:
        """Find again who is to be tried; ``touched``: uids of the pods whose volumes are others than before."""
        held = self._claims.for_volumes()
        troubled = self.refusals.known or self._claims.denied or self._claims.waited_since or self.rejections.waits
        if not (self._out or self._sparing or held or troubled):
            return
        self._forget_gone()
        for uid, since in list(self._claims.waited_since.items()):
            if now >= since + VOLUMES_GIVEN_UP_AFTER:
                del self._claims.waited_since[uid]
                self.refusals.refuse(uid, Reason.VOLUME_NOT_READY, _TOO_LATE, now)
        for claim in held:
            if now >= claim.since + VOLUMES_GIVEN_UP_AFTER or not touched.isdisjoint(claim.volumes):
                self._check_volumes(claim, now)
        wanted = self._refused(now)
        wanted |= self._held(self._claims.for_volumes())
        for uid in self._out - wanted.keys():
            self._put_back(uid)
        for uid, why in wanted.items():
            self._take_out(uid, why)
        self._out = set(wanted)
        denied = [uid for uid, one in self._claims.denied.items() if one.until > now]
        sparing = self._with_gangs([*self.refusals.sparing(now), *denied])
        for uid in self._sparing | sparing:
            self._set_preempts(uid, may=uid not in sparing)
        self._sparing = sparing

    def spares(self, now: int) -> dict[int, str]:
        """Slot of a pod that waits and for which nobody is evicted for now -> the sentence that says so, and why."""
        ends = {uid: (self.refusals.known[uid].evicts_from, _REFUSED) for uid in self.refusals.sparing(now)}
        for uid, one in self._claims.denied.items():
            if one.until > now and uid not in self._claims.thwarted:
                ends[uid] = max(ends.get(uid, (0, "")), (one.until, _IN_VAIN))
        found = dict[int, tuple[int, str]]()
        for uid, end in ends.items():
            for other in self._with_gangs([uid]):
                row = self._pods[other]
                if row.slot >= 0 and row.pod is not None and row.pod.spec.preemption_policy != "Never":
                    found[row.slot] = max(found.get(row.slot, end), end)
        return {slot: f"{why}, {SPARES_OTHERS} {rfc3339(end)}" for slot, (end, why) in found.items()}

    def _forget_gone(self) -> None:
        """Nothing need be known of pods that wait no longer."""
        for known in (self._claims.denied, self._claims.waited_since):
            for uid in [uid for uid in known if uid not in self._pods or self._pods[uid].slot < 0]:
                del known[uid]

    def forget_failures(self, uids: Iterable[str]) -> None:
        """Volumes of these pods are about to be made; that earlier attempts failed is of no more interest."""
        for uid in uids:
            if (row := self._pods.get(uid)) is not None and row.pod is not None:
                self._volumes.failures.asked_anew(row.pod)

    def troubled_gangs(self) -> set[int]:
        """Rows of gangs of which a member was refused and has not been bound since."""
        rows = [self._pods[uid] for uid in self.refusals.known if uid in self._pods]
        return {row.gang_row for row in rows if row.gang_row >= 0}

    def keep_barred(self, overdue: dict[int, tuple[tuple[PodName, str], ...]]) -> None:
        """What runs of a gang goes on though it is in part, where all who are missing wait in a queue and a class of
        those who run, and may not be started as the policy is. A member that never could be, for a typing error, is no
        excuse."""
        waiting, barred = self._pending.arrays, Counter[int]()
        for slot, (reason, _) in waiting.invalid.items() if overdue else ():
            row = self._pods.get(waiting.names[slot].uid) if reason in BY_POLICY else None
            runs = overdue.get(row.gang_row, ()) if row is not None else ()
            if row is not None and _ruled_by(row) in {_ruled_by(self._pods[name.uid]) for name, _ in runs}:
                barred[row.gang_row] += 1
        for gang, count in barred.items():
            if count >= self._gangs.arrays.missing(gang):
                del overdue[gang]

    def next_change(self, now: int) -> int:
        """When time alone changes something; 0: never."""
        if not (self.refusals.known or self._claims.held or self._claims.denied or self.rejections.next_end):
            return 0
        ends = [claim.since + VOLUMES_GIVEN_UP_AFTER for claim in self._claims.for_volumes()]
        ends += [
            self.refusals.next_end(now),
            self.rejections.next_end,
            *(one.until for one in self._claims.denied.values()),
        ]
        return min((end for end in ends if end > now), default=0)

    def recall_places(self) -> None:
        """Another process has decided until now: whoever had a node chosen for its volumes had a place there, and comes
        first in the next decision."""
        for uid, row in self._pods.items():
            if row.pod is not None and row.slot >= 0 and row.pod.spec.volumes and not self._claims.has_place(uid):
                reach = self._volumes.reach(row.pod)
                if reach.being_made and reach.made_for:
                    self._claims.recalled[uid] = reach.made_for

    def _check_volumes(self, claim: Claim, now: int) -> None:
        """Let a claim go on whose volumes are there, and give one up that waits in vain."""
        nodes = {spot.node for spot in claim.spots.values()}
        for uid in sorted(claim.volumes):
            row = self._pods.get(uid)
            if row is None or row.pod is None or uid not in claim.volumes:
                continue
            reach, failed = self._volumes.reach(row.pod), self._volumes.failures.sentence(row.pod, nodes)
            if failed or now >= claim.since + VOLUMES_GIVEN_UP_AFTER:
                self.refusals.refuse(uid, Reason.VOLUME_NOT_READY, failed or _TOO_LATE, now)
                self._claims.give_up(uid)
            elif reach.waits_for or reach.free or (reach.made_for and reach.made_for not in nodes):
                # The claim, or the volume chosen for it, is gone, or somebody else has chosen a node for it.
                self._claims.give_up(uid)
            elif not reach.being_made:
                self._claims.volumes_exist(uid, claim)

    def _refused(self, now: int) -> dict[str, _Why]:
        """Uid -> why, of pods that were refused and of the others of their gangs."""
        of_gangs = dict[int, _Why]()
        found = {uid: (refusal.reason, refusal.words) for uid, refusal in self.refusals.in_force(now)}
        found |= {uid: (Reason.NODE_REJECTED, why) for uid, why in self._of_rejected().items()}
        found = {uid: why for uid, why in found.items() if uid in self._pods}
        for uid, (reason, words) in found.items():
            row = self._pods[uid]
            if row.gang_row >= 0:
                why = f"member {row.name.name} of its gang has to wait: {words}"
                of_gangs.setdefault(row.gang_row, (reason, why))
        return self._of_members(of_gangs) | found

    def _of_rejected(self) -> dict[str, str]:
        """Uid -> why, of pods that wait and whose owner's other pods kubelets have rejected."""
        waits, found = self.rejections.waits, dict[str, str]()
        for name in self._pending.arrays.names if waits else ():
            row = self._pods.get(name.uid)
            owners = row.pod.metadata.owner_references if row is not None and row.pod is not None else ()
            for owner in owners:
                if owner.controller and owner.uid in waits:
                    found[name.uid] = waits[owner.uid].sentence
        return found

    def _with_gangs(self, uids: Iterable[str]) -> set[str]:
        """Those of the pods that are there, and the waiting members of their gangs."""
        rows = {uid: row for uid in uids if (row := self._pods.get(uid)) is not None}
        return {*rows, *self._waiting_members({row.gang_row for row in rows.values() if row.gang_row >= 0})}

    def _set_preempts(self, uid: str, *, may: bool) -> None:
        row = self._pods.get(uid)
        if row is not None and row.pod is not None and row.slot >= 0:
            self._pending.arrays.preempts[row.slot] = may and row.pod.spec.preemption_policy != "Never"

    def _held(self, claims: Iterable[Claim]) -> dict[str, _Why]:
        """Uid -> why, of the pods of claims, and of the others of their gangs."""
        found, of_gangs = dict[str, _Why](), dict[int, _Why]()
        for claim in claims:
            for uid, spot in claim.spots.items():
                row = self._pods.get(uid)
                gang = row.gang_row if row is not None else -1
                mine = uid in claim.volumes
                whose = "its volumes are" if mine or gang < 0 else "the volumes of its gang are"
                found[uid] = (Reason.VOLUME_NOT_READY, f"its place on {spot.node} is held until {whose} there")
                if gang >= 0:
                    of_gangs[gang] = (Reason.VOLUME_NOT_READY, "the volumes of its gang are being made")
        return self._of_members(of_gangs) | found

    def _of_members(self, of_gangs: dict[int, _Why]) -> dict[str, _Why]:
        """Uid -> why, of all waiting members of gangs of which it is said."""
        return {uid: of_gangs[gang] for uid, gang in self._waiting_members(of_gangs.keys()).items()}

    def _waiting_members(self, gangs: Collection[int]) -> dict[str, int]:
        """Uid -> gang row, of the members of gangs that are in a slot and could be tried."""
        pending = self._pending.arrays
        gang = pending.gang[: len(pending.names)]
        slots = np.flatnonzero(np.isin(gang, list(gangs))).tolist() if gangs else ()
        able = (slot for slot in slots if pending.waiting[slot] or slot in pending.invalid)
        return {pending.names[slot].uid: int(gang[slot]) for slot in able}

    def _take_out(self, uid: str, why: _Why) -> None:
        row = self._pods.get(uid)
        if row is None or row.slot < 0 or row.shape < 0:
            return  # it has its place, or a reason of its own
        if self._pending.suspend(row.slot, *why) and row.gang_row >= 0:
            self._gangs.arrays.waiting[row.gang_row] -= 1

    def _put_back(self, uid: str) -> None:
        row = self._pods.get(uid)
        if row is None or row.slot < 0 or row.shape < 0:
            return
        if self._pending.resume(row.slot) and row.gang_row >= 0:
            self._gangs.arrays.waiting[row.gang_row] += 1


def _ruled_by(row: PodRow) -> tuple[str, str]:
    """The queue and the class that a pod names."""
    labels = row.pod.metadata.labels if row.pod is not None else {}
    return labels.get(names.QUEUE, ""), labels.get(names.PRIORITY_CLASS, "")
