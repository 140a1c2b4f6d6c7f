"""Who holds what of this node's GPUs, and whose turn it is: put together from three sources, none of them our own disk.

- The watch of this node's pods says what each pod is to get (``records``).
- The kubelet's pod-resources API says what each container holds. It is the truth, but knows pods by name only.
- What was given since the agent started fills the gaps: init containers, which the kubelet does not list, and the time
  while the kubelet does not answer.

**Whose turn it is.** The kubelet's calls do not say for which pod they are. But it admits pods strictly one after
another, and lists a pod from the moment at which it starts to admit it (kubelet 1.36: ``HandlePodAdditions`` adds the
pod to the pod manager, then asks the device manager, then goes on to the next pod; rejected pods are no longer listed).
So while a call runs, the one pod that is listed and lacks devices that it asks for is the pod that is being admitted.

Kubelets before 1.34 go on listing a pod that they have rejected, until it is deleted. What was refused here is out of
the question therefore, and of others the pod that was listed last goes first: those before it have had their turn.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from tangram.api.objects import DeviceShare, Pod
from tangram.node.allocation import Devices
from tangram.node.foreign import Taken, key_of, matched, named_in
from tangram.node.gpus import Holding
from tangram.node.podresources import Listed
from tangram.node.records import TERMINAL_PHASES, Claimant, Want, read_claimant
from tangram.node.slots import Slots, shares_of, uuid_of
from tangram.units import HUNDREDTHS_PER_GPU

Listing = tuple[Listed, ...]
Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Turn:
    """The container that the kubelet is most likely asking for."""

    claimant: Claimant
    want: Want
    again: bool
    """It had its turn already: either the kubelet has lost its notes, or this is an older pod of the same name and our
    watch is late."""
    rivals: int = 0
    """Other containers that it could as well be and that are to get something else."""


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A container that holds other GPUs than its record names."""

    namespace: str
    pod: str
    uid: str
    text: str


class Ledger:
    """Kept by the watch (``put``) and by what is given (``note``); asked with a listing of the kubelet's."""

    def __init__(self, slots: Iterable[Slots], node: str, scheduler: str) -> None:
        self._resources = tuple(one.resource for one in slots)
        self._node, self._scheduler = node, scheduler
        self._pods: dict[Key, Pod] = {}
        self._claimants: dict[str, Claimant] = {}
        self._given: dict[tuple[str, str, str], frozenset[str]] = {}
        self._refused: set[str] = set()
        """Pods whose container was refused: the kubelet has rejected them, though the watch does not show it yet."""
        self._appeared: dict[Key, int] = {}
        """Pod that the kubelet lists -> number of the listing in which it was new."""
        self._listings = 0

    def put(self, change: Literal["added", "modified", "deleted", "synced"], old: Pod | None, new: Pod | None) -> None:
        """A pod of this node has changed, as the watch shows."""
        if new is not None:
            self._pods[new.metadata.namespace, new.metadata.name] = new
            claimant = read_claimant(new, self._resources, self._node, self._scheduler)
            if claimant is not None:
                self._claimants[claimant.uid] = claimant
            else:
                self._forget(new.metadata.uid)
        elif old is not None:
            self._pods.pop((old.metadata.namespace, old.metadata.name), None)
            self._forget(old.metadata.uid)

    @property
    def claimants(self) -> tuple[Claimant, ...]:
        """The pods that hold GPUs or are to get some."""
        return tuple(self._claimants.values())

    def note(self, claimant: Claimant, want: Want, device_ids: Iterable[str]) -> None:
        """Remember that a container was given these ids."""
        if claimant.uid in self._claimants:
            self._given[claimant.uid, want.container, want.resource] = frozenset(device_ids)

    def note_refused(self, uid: str) -> None:
        """Remember that a pod was refused, which is final: the kubelet rejects it as a whole, and its phase follows.

        Without a list of the kubelet's it is a guess which pod that was, and nothing is remembered."""
        claimant = self._claimants.get(uid)
        if claimant is not None and claimant.key in self._appeared:
            self._refused.add(uid)

    def forget_refused(self) -> None:
        """The kubelet is another one: it admits anew whatever has no phase yet."""
        self._refused.clear()

    def turn(self, listing: Listing | None, resource: str, amount: int) -> Turn | None:
        """Whose turn it is when the kubelet asks for ``amount`` ids; without a listing it could not be asked back."""
        listed = None if listing is None else _by_pod(listing)
        self._listings += 1
        self._appeared = {key: self._appeared.get(key, self._listings) for key in listed or ()}
        turns = [
            turn
            for claimant in self._claimants.values()
            if (turn := self._turn_of(claimant, listed, resource)) is not None and turn.want.amount == amount
        ]
        if not turns:
            return None
        first = min(turns, key=self._order)
        rivals = sum(turn.want.shares != first.want.shares for turn in turns if turn.again == first.again)
        return Turn(first.claimant, first.want, first.again, rivals)

    def holdings(self, listing: Listing | None, devices: Devices) -> tuple[Holding, ...]:
        """What every container holds: by the kubelet's list, else by the records of pods that were given theirs."""
        found = self._listed_holdings(listing, devices) if listing is not None else self._recorded_holdings(devices)
        return (*found, *self._passing_holdings(found, devices))

    def mismatches(self, listing: Listing, devices: Devices) -> tuple[Mismatch, ...]:
        """Containers whose devices are not what their pod's record says."""
        listed, found = _by_pod(listing), []
        for claimant in self._claimants.values():
            for want in claimant.wants:
                held = listed.get(claimant.key, {}).get(want.container, {}).get(want.resource, frozenset())
                if not held or want.passing:
                    continue
                shares = shares_of(held)
                named = Counter({gpu.uuid if (gpu := devices.find(s.id)) else s.id: s.share for s in want.shares})
                if claimant.fault:
                    text = f"{claimant}, container {want.container} holds {_text(shares)}, but {claimant.fault}"
                elif shares != named:
                    text = f"{claimant}, container {want.container} holds {_text(shares)}; its record: {_text(named)}"
                else:
                    continue
                found.append(Mismatch(claimant.namespace, claimant.name, claimant.uid, text))
        return tuple(found)

    def _forget(self, uid: str) -> None:
        self._claimants.pop(uid, None)
        self._refused.discard(uid)
        for key in [key for key in self._given if key[0] == uid]:
            del self._given[key]

    def _turn_of(
        self, claimant: Claimant, listed: Mapping[Key, Mapping[str, Mapping[str, frozenset[str]]]] | None, resource: str
    ) -> Turn | None:
        """The first container of a pod that lacks its devices; None: none does, or the kubelet has not seen the pod."""
        if claimant.uid in self._refused or (listed is not None and claimant.key not in listed):
            return None
        for want in claimant.wants:
            if want.resource != resource:
                continue
            given = (claimant.uid, want.container, resource) in self._given
            if want.passing:
                filled = given or claimant.started
            elif listed is None:
                filled = given
            else:
                filled = bool(listed[claimant.key].get(want.container, {}).get(resource))
            if not filled:
                return Turn(claimant, want, again=given or claimant.started)
        return None

    def _listed_holdings(self, listing: Listing, devices: Devices) -> list[Holding]:
        known = {gpu.uuid for gpu in devices.gpus if not gpu.resource}
        foreign = matched(self._taken(listing, devices), devices.gpus)
        found = []
        for container in listing:
            claimant = self._claimant(container.namespace, container.pod)
            shares: Counter[str] = Counter()
            for resource, ids in container.devices.items():
                if resource in self._resources:
                    shares.update(shares_of(ids))
                else:  # somebody else's plugin: whatever it means by its ids, it has given out the GPU
                    shares.update({uuid: HUNDREDTHS_PER_GPU for uuid in map(uuid_of, ids) if uuid in known})
            uid = self._uid(container.namespace, container.pod)
            shares.update(dict.fromkeys(foreign.get(key_of(container), ()), HUNDREDTHS_PER_GPU))
            for uuid, share in sorted(shares.items()):
                memory = _memory(claimant, container.container, uuid, devices)
                place = (uid, container.namespace, container.pod, container.container)
                found.append(Holding(*place, uuid, min(share, HUNDREDTHS_PER_GPU), memory))
        return found

    def _taken(self, listing: Listing, devices: Devices) -> list[Taken]:
        """What containers hold of devices that another vendor's plugin gives out."""
        resources = {gpu.resource for gpu in devices.gpus if gpu.resource}
        found = []
        for one in listing:
            pod = self._pods.get((one.namespace, one.pod))
            for resource, ids in one.devices.items():
                if resource in resources:
                    named = named_in(pod, one.container, devices)
                    found.append(Taken(key_of(one), resource, len(ids), named))
        return found

    def _recorded_holdings(self, devices: Devices) -> list[Holding]:
        return [
            _holding(claimant, want, share, devices)
            for claimant in self._claimants.values()
            for want in claimant.wants
            if not want.passing and self._was_given(claimant, want)
            for share in want.shares
        ]

    def _passing_holdings(self, found: Iterable[Holding], devices: Devices) -> list[Holding]:
        """What init containers had more than the containers after them: the kubelet keeps it for the pod."""
        lasting = Counter({(one.pod_uid, one.uuid): 0 for one in found})
        for one in found:
            lasting[one.pod_uid, one.uuid] += one.share
        extra: dict[tuple[str, str], Holding] = {}
        for claimant in self._claimants.values():
            for want in claimant.wants:
                if not want.passing or not self._was_given(claimant, want):
                    continue
                for share in want.shares:
                    one = _holding(claimant, want, share, devices)
                    before = extra.get((one.pod_uid, one.uuid))
                    more = one.share - lasting[one.pod_uid, one.uuid]
                    if more > (before.share if before else 0):
                        memory = one.memory_mib * more // one.share
                        place = (one.pod_uid, one.namespace, one.pod, one.container)
                        extra[one.pod_uid, one.uuid] = Holding(*place, one.uuid, more, memory)
        return list(extra.values())

    def _order(self, turn: Turn) -> tuple[bool, bool, int, str, Key]:
        """Of several, pods on their first turn come first; the kubelet takes those that it sees together by age."""
        claimant = turn.claimant
        return turn.again, claimant.leaving, -self._appeared.get(claimant.key, 0), claimant.created, claimant.key

    def _was_given(self, claimant: Claimant, want: Want) -> bool:
        if claimant.fault or claimant.uid in self._refused:
            return False
        return claimant.started or (claimant.uid, want.container, want.resource) in self._given

    def _claimant(self, namespace: str, name: str) -> Claimant | None:
        return self._claimants.get(self._uid(namespace, name))

    def _uid(self, namespace: str, name: str) -> str:
        pod = self._pods.get((namespace, name))
        return pod.metadata.uid if pod is not None and pod.status.phase not in TERMINAL_PHASES else ""


def _by_pod(listing: Listing) -> dict[Key, dict[str, Mapping[str, frozenset[str]]]]:
    pods: dict[Key, dict[str, Mapping[str, frozenset[str]]]] = {}
    for container in listing:
        pods.setdefault((container.namespace, container.pod), {})[container.container] = container.devices
    return pods


def _holding(claimant: Claimant, want: Want, share: DeviceShare, devices: Devices) -> Holding:
    gpu = devices.find(share.id)
    place = (claimant.uid, claimant.namespace, claimant.name, want.container)
    return Holding(*place, gpu.uuid if gpu else share.id, share.share, share.memory_mib)


def _memory(claimant: Claimant | None, container: str, uuid: str, devices: Devices) -> int:
    """MiB that the record gives a container on a GPU; 0: in proportion."""
    for want in claimant.wants if claimant is not None else ():
        for share in want.shares if want.container == container else ():
            gpu = devices.find(share.id)
            if gpu is not None and gpu.uuid == uuid:
                return share.memory_mib
    return 0


def _text(shares: Mapping[str, int]) -> str:
    return " and ".join(f"{share} of {uuid}" for uuid, share in sorted(shares.items())) or "nothing"
