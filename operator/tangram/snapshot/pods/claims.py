"""Places that are being made free: what evictions were for stays reserved until the pods that asked for it are there.

A claim is for one pod, or for the members of a gang, which get their places together or not at all. On every node it
holds what its pods will need and what its victims do not hold any more, so that a node with a claim is never counted
as fuller than it will be, and nobody else takes what the victims leave behind. Its queue is charged meanwhile.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from tangram.plan import Place
from tangram.snapshot.arrays import Int64
from tangram.snapshot.nodes.nodes import NodeTable
from tangram.snapshot.nodes.usage import Usage
from tangram.snapshot.pods.claim import SPARED_FOR, Claim, Denied, Spared, Spot, pause_after

GIVEN_UP_AFTER = 60
"""Seconds after which a victim that does not even begin to leave was never evicted: the claim is given up."""
VOLUMES_GIVEN_UP_AFTER = 600
"""Seconds for which a place is held while volumes are made for it, as kube-scheduler waits for them."""
_MOST_WORDS = 1000
WAITS_FOR, REFUSED = "waits for the eviction of", "which the API server refuses"
"""What a claimant reads of the victim that keeps its place."""
_KEY = "claim/"


class ClaimTable:
    """Claims by the uids of the pods that they are for; ``charge`` counts amounts for a leaf, with a sign."""

    def __init__(self, nodes: NodeTable, charge: Callable[[int, Int64, int], None]) -> None:
        self._nodes = nodes
        self._charge = charge
        self.held: dict[str, Claim] = {}
        """Claimant uid -> the claim of which it is part."""
        self._on: dict[str, dict[str, Claim]] = {}
        """Node -> claimant uid -> claim."""
        self._uncounted: set[str] = set()
        """Nodes on which what is claimed has to be counted anew before anybody asks what is free there."""
        self._claims_on: dict[str, list[Claim]] = {}
        """Victim uid -> the claims that wait for it."""
        self.spared: dict[str, Spared] = {}
        """By uid pods whose eviction did not happen; those that were refused for as long as they are there."""
        self.waited_since: dict[str, int] = {}
        """Uid of a pod that chooses anew -> since when it has waited for its volumes, in seconds since the epoch."""
        self.denied: dict[str, Denied] = {}
        """By the uid of a pod that waits."""
        self.thwarted: dict[str, str] = {}
        """Uid of a claimant -> that of the victim whose refused eviction has ended its claim."""
        self._evicted: dict[str, int] = {}
        """Uid of a pod that was asked to leave for a claim that is no more -> when: it is still expected to leave."""
        self.promised: set[str] = set()
        """Uids of claimants for which existing volumes are kept while others leave."""
        self.nominations: dict[str, Place] = {}
        """Claimant uid -> its place, for claims whose victims are all gone: good for one decision, before others."""
        self.came_free: set[str] = set()
        """Those of them for whom others have left."""
        self.recalled: dict[str, str] = {}
        """Uid -> node of pods for which another process held a place there: they, too, come before others once."""

    def hold(self, spots: Mapping[str, Spot], victims: Iterable[str], now: int, volumes: Iterable[str] = ()) -> None:
        """Reserve places that evictions will make free, or on which pods wait for their ``volumes``; with neither they
        are there for the next decision."""
        for claimant in spots:
            self.drop(claimant)
        volumes = set(volumes) & spots.keys()
        waited = [self.waited_since.pop(uid, now) for uid in spots]
        claim = Claim(dict(spots), set(victims), volumes, min([now, *waited]) if volumes else now)
        claim.evicts = bool(claim.victims)
        self._wait_for(claim)
        for claimant, spot in spots.items():
            self.held[claimant] = claim
            self._on.setdefault(spot.node, {})[claimant] = claim
            self._charge(spot.leaf, spot.charged, 1)
        self._uncounted.update(spot.node for spot in spots.values())
        if claim.fulfilled:
            self._fulfil(claim)

    def wait_for_fewer(self, claimant: str, elsewhere: Iterable[str]) -> None:
        """The place of a claimant does not depend on these victims, which leave other nodes."""
        claim = self.held.get(claimant)
        if claim is not None and len(claim.spots) == 1:
            claim.elsewhere = frozenset(elsewhere)

    def _wait_for(self, claim: Claim) -> None:
        for victim in claim.victims:
            self._claims_on.setdefault(victim, []).append(claim)
            self._evicted.pop(victim, None)

    def drop(self, claimant: str) -> None:
        """Give a place up, or end it because its pod has been placed; whoever was asked to leave for it still will."""
        self.nominations.pop(claimant, None)
        self.came_free.discard(claimant)
        self.recalled.pop(claimant, None)
        self.promised.discard(claimant)
        claim = self.held.pop(claimant, None)
        if claim is None:
            return
        spot = claim.spots.pop(claimant)
        self._charge(spot.leaf, spot.charged, -1)
        del self._on[spot.node][claimant]
        if not claim.spots:
            for victim in claim.victims:
                self._forget_victim(victim, claim)
        self._uncounted.add(spot.node)
        self.volumes_exist(claimant, claim)

    def volumes_exist(self, claimant: str, claim: Claim) -> None:
        """The volumes of one of its pods exist now, or need not any more."""
        if claimant in claim.volumes:
            claim.volumes.discard(claimant)
            if claim.fulfilled:
                self._fulfil(claim)

    def keep_volumes(self, claimant: str) -> None:
        """Existing volumes have been chosen for a pod for whose place others leave: they are kept with the place."""
        if self.has_place(claimant):
            self.promised.add(claimant)

    def keeps_volumes(self, uid: str) -> bool:
        """Whether volumes that have been chosen for a pod are kept: by a place that waits for them, or for others to
        leave."""
        return self.waits_for_volumes(uid) or (uid in self.promised and self.has_place(uid))

    def has_place(self, uid: str) -> bool:
        """Whether a place is held for the pod, or has just been made free for it."""
        return uid in self.held or uid in self.nominations

    def count_by_name(self, claimant: str, columns: Sequence[int]) -> None:
        """The place holds nothing of these columns any more: what the pod gets of them is counted by its name."""
        claim = self.held.get(claimant)
        if claim is None:
            return
        spot = claim.spots[claimant]
        request = spot.usage.request.copy()
        request[[column for column in columns if column < len(request)]] = 0
        claim.spots[claimant] = replace(spot, usage=Usage(request, spot.usage.devices, spot.usage.unknown))
        self._uncounted.add(spot.node)

    def give_up(self, claimant: str, *, stuck: bool = False) -> list[str]:
        """Give up all of the claim that a pod is part of, its victims too if they are ``stuck``; the uids of its
        pods."""
        claim = self.held.get(claimant)
        claimants = list(claim.spots) if claim is not None else [claimant]
        victims = set(claim.victims) if claim is not None and stuck else set[str]()
        if claim is not None:
            claim.volumes.clear()
        for one in claimants:
            self.drop(one)
        for victim in victims:
            self._evicted.pop(victim, None)
        return claimants

    def wants_to_leave(self, victim: str) -> bool:
        """Whether a claim waits for the pod, which is about to be asked to leave; if not, nobody expects it to."""
        if victim in self._claims_on:
            return True
        self._evicted.pop(victim, None)
        return False

    def stays(self, claimant: str, victim: str) -> list[str]:
        """The victim does not leave: give up all claims that count on it, be it that others asked for it; the uids of
        their pods."""
        waiting = [claimant, *(uid for claim in self._claims_on.get(victim, []) for uid in claim.spots)]
        found = [one for uid in dict.fromkeys(waiting) for one in self.give_up(uid)]
        self._evicted.pop(victim, None)
        return found

    def give_all_up(self) -> None:
        """Forget every claim: queues are counted anew."""
        for claimant in list(self.held):
            self.drop(claimant)

    def left(self, victim: str, node: str) -> None:
        """A pod has left its node; the last victim of a claim leaves the places to the claimants."""
        self.spared.pop(victim, None)
        self._evicted.pop(victim, None)
        for claim in self._claims_on.pop(victim, []):
            claim.victims.discard(victim)
            if claim.fulfilled:
                self._fulfil(claim)
        if self._on.get(node):
            self._uncounted.add(node)

    def node_changed(self, node: str) -> None:
        """What the pods on a node hold has been counted anew; claims on a node that is gone are given up."""
        if not self._on.get(node):
            return
        if node in self._nodes.rows:
            self._uncounted.add(node)
            return
        for claimant in list(self._on[node]):
            self.give_up(claimant)

    def reconsider(self, node: str) -> None:
        """What is said of a node itself is other than before: whoever claims a place there chooses anew.

        Whoever was asked to leave for it still counts as leaving, so that nobody else is evicted if the place is as
        good as before.
        """
        for claimant, claim in list(self._on.get(node, {}).items()):
            since = claim.since if claim.volumes else 0
            for uid in self.give_up(claimant):
                self.waited_since |= {uid: since} if since else {}

    def spare(self, victim: str, now: int, refused: str = "") -> None:
        """The pod's eviction did not happen: leave it alone for a while; the longer, the more often it was ``refused``,
        which is what the server said."""
        before = self.spared.get(victim)
        tries = (before.tries if before is not None else 0) + bool(refused)
        words = refused[:_MOST_WORDS] or (before.words if before is not None else "")
        self.spared[victim] = Spared(tries, now + (pause_after(tries) if refused else SPARED_FOR), words)

    def forgive(self, victim: str) -> None:
        """What refused the pod's eviction may allow it now: it may be chosen again at once, and others may be evicted
        for whom it had thwarted. It is still asked first."""
        self.spared[victim] = replace(self.spared[victim], tries=1, until=0)
        for claimant in [claimant for claimant, one in self.thwarted.items() if one == victim]:
            del self.thwarted[claimant]
            self.denied.pop(claimant, None)

    def end_nominations(self, now: int) -> None:
        """A decision has been made: what had been made free has been given away by it, or to others. For whoever got
        nothing by what others left, and that more than once, nobody is evicted for a while: it could go on for ever."""
        for uid in sorted(self.came_free):
            self.deny(uid, now)
        self.nominations.clear()
        self.came_free.clear()
        self.recalled.clear()

    def deny(self, claimant: str, now: int) -> None:
        """An eviction was refused that was for this pod; several at once count as one."""
        before = self.denied.get(claimant)
        if before is None or before.since != now:
            self.denied[claimant] = Denied(before.tries + 1 if before is not None else 1, now)

    def was_refused(self, victim: str) -> bool:
        """Whether the API server has refused the pod's eviction before."""
        return victim in self.spared and self.spared[victim].tries > 0

    def rebase(self, now: int) -> None:
        """The clock was ahead: what was decided then was decided now at the latest."""
        for claim in self.held.values():
            claim.since = min(claim.since, now)
        for uid, one in self.spared.items():
            self.spared[uid] = replace(one, until=min(one.until, now + pause_after(one.tries)))
        self.denied = {uid: replace(one, since=min(one.since, now)) for uid, one in self.denied.items()}
        self._evicted = {uid: min(since, now) for uid, since in self._evicted.items()}

    def untouchable(self, now: int) -> list[str]:
        """Uids of pods that are somebody's victims already, or whose eviction was refused not long ago."""
        for uid in [uid for uid, one in self.spared.items() if one.until <= now and not one.tries]:
            del self.spared[uid]
        for uid in [uid for uid, since in self._evicted.items() if now - since >= GIVEN_UP_AFTER]:
            del self._evicted[uid]
        spared = [uid for uid, one in self.spared.items() if one.until > now]
        return [*self._claims_on, *spared, *self._evicted]

    def overdue(self, now: int) -> list[tuple[str, Claim]]:
        """(a claimant, claim) of claims that are old enough to ask whether their victims leave at all."""
        old = {id(claim): (uid, claim) for uid, claim in self.held.items() if now - claim.since >= GIVEN_UP_AFTER}
        return list(old.values())

    def for_volumes(self) -> list[Claim]:
        """Claims whose pods wait for volumes."""
        return list({id(claim): claim for claim in self.held.values() if claim.volumes}.values())

    def waits_for_volumes(self, uid: str, node: str = "") -> bool:
        """Whether a place on the node (empty: on any) is held for a pod whose volumes are not there yet."""
        claim = self._on.get(node, {}).get(uid) if node else self.held.get(uid)
        return claim is not None and uid in claim.volumes

    def live(self) -> list[tuple[str, str]]:
        """(claimant, node) of every claim whose victims have not all left."""
        return [(claimant, claim.spots[claimant].node) for claimant, claim in self.held.items()]

    def places(self) -> dict[str, Place]:
        """Claimant uid -> the place that is held for it, or has just been made free."""
        return {uid: claim.spots[uid].place for uid, claim in self.held.items()} | self.nominations

    def victims(self) -> list[str]:
        """Uids of all pods that claims wait for, or waited for: they have been asked to leave."""
        return [*self._claims_on, *self._evicted]

    def nodes(self) -> list[str]:
        """Nodes on which places are claimed."""
        return [node for node, claims in self._on.items() if claims]

    def claimed_on(self, node: str) -> list[Usage]:
        """What claimants will hold on a node."""
        return [claim.spots[claimant].usage for claimant, claim in self._on.get(node, {}).items()]

    def counted_on(self, node: str) -> list[Usage]:
        """What is counted as held on a node for them already."""
        usage = self._nodes.usage_of(node).get(_KEY)
        return [usage] if usage is not None else []

    def _fulfil(self, claim: Claim) -> None:
        promised = self.promised & claim.spots.keys()
        for claimant, spot in list(claim.spots.items()):
            self.drop(claimant)
            self.nominations[claimant] = spot.place
            if claim.evicts:
                self.came_free.add(claimant)
        self.promised |= promised

    def _forget_victim(self, victim: str, claim: Claim) -> None:
        others = [one for one in self._claims_on.get(victim, []) if one is not claim]
        if others:
            self._claims_on[victim] = others
        else:
            self._claims_on.pop(victim, None)
            self._evicted[victim] = claim.since

    def count(self) -> None:
        """Count anew what is claimed on nodes of which claims, or what their victims hold, have changed."""
        for node in sorted(self._uncounted):
            self._count(node)
            if self._on.get(node) and self._wait_for_strays(node):
                self._count(node)
        self._uncounted.clear()

    def _wait_for_strays(self, node: str) -> bool:
        """Have the claims on a node that is short wait for those, too, who leave it for a claim that is no more, as its
        pod has come sooner and taken what was free; whether there are any."""
        row, arrays = self._nodes.rows[node], self._nodes.arrays
        if (arrays.free[row] >= 0).all() and (arrays.device_free[row] >= 0).all():
            return False
        strays = self._evicted.keys() & self._nodes.usage_of(node).keys()
        for claim in {id(one): one for one in self._on[node].values()}.values() if strays else ():
            claim.victims |= strays
            for victim in sorted(strays):
                self._claims_on.setdefault(victim, []).append(claim)
        for victim in strays:
            del self._evicted[victim]
        return bool(strays)

    def _count(self, node: str) -> None:
        """Count what the claims on a node need beyond what their own victims hold there."""
        claims = self._on.get(node)
        if not claims:
            self._on.pop(node, None)
            self._nodes.give_back(node, _KEY)
            return
        held = self._nodes.usage_of(node)
        usages = [claim.spots[claimant].usage for claimant, claim in claims.items()]
        request = np.zeros(max(len(usage.request) for usage in (*usages, *held.values())), np.int64)
        devices: dict[int, tuple[int, int]] = {}
        for claimants, victims in self._together(claims, held):
            wanted = [claims[claimant].spots[claimant].usage for claimant in claimants]
            kept = np.zeros(len(request), np.int64)
            for column, places in self._nodes.kept_volumes(node, victims).items():
                if column < len(kept):
                    kept[column] = places
            leaving = [*(held[victim] for victim in victims), Usage(-kept, ())]
            amounts, parts = _beyond(wanted, leaving, len(request))
            request += amounts
            for index, (milli, mib) in parts.items():
                before = devices.get(index, (0, 0))
                devices[index] = before[0] + milli, before[1] + mib
        counted = tuple((index, milli, mib) for index, (milli, mib) in sorted(devices.items()))
        self._nodes.take(node, _KEY, Usage(request, counted))

    def _together(self, claims: Mapping[str, Claim], held: Mapping[str, Usage]) -> list[tuple[list[str], set[str]]]:
        """(claimants, victims) on a node of claims that wait for the same pods there: what one victim leaves is for
        those who wait for it, and for nobody else."""
        alone: list[str] = []
        groups: list[tuple[list[str], set[str]]] = [(alone, set())]
        for claimant, claim in claims.items():
            mine, victims = [claimant], {uid for uid in claim.victims if uid in held}
            if not victims:
                alone.append(claimant)
                continue
            for group in [one for one in groups if not victims.isdisjoint(one[1])]:
                groups.remove(group)
                mine, victims = group[0] + mine, group[1] | victims
            groups.append((mine, victims))
        return groups


def _beyond(wanted: Iterable[Usage], leaving: Iterable[Usage], width: int) -> tuple[Int64, dict[int, tuple[int, int]]]:
    """([width] amounts, device -> (milli, MiB)) that are wanted beyond what will be left."""
    amounts, parts = np.zeros(width, np.int64), dict[int, tuple[int, int]]()
    for usages, sign in ((wanted, 1), (leaving, -1)):
        for usage in usages:
            amounts[: len(usage.request)] += sign * usage.request
            for index, milli, mib in usage.devices:
                before = parts.get(index, (0, 0))
                parts[index] = before[0] + sign * milli, before[1] + sign * mib
    return np.maximum(amounts, 0), {index: (max(milli, 0), max(mib, 0)) for index, (milli, mib) in parts.items()}
