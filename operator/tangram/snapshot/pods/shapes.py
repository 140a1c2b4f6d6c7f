"""Pod shapes: equal requests share a row, read once however many pods there are."""

from collections.abc import Iterable
from itertools import chain, zip_longest
from operator import attrgetter
from typing import TypeAlias

import numpy as np

from tangram.api.objects import Pod, Taint, Toleration
from tangram.api.policy import HybridPolicy, class_of
from tangram.snapshot.arrays import Int64, Shapes
from tangram.snapshot.nodes.attached import volumes_of
from tangram.snapshot.nodes.columns import NOT_OFFERED
from tangram.snapshot.nodes.nodes import NodeTable
from tangram.snapshot.pods.access import Access
from tangram.snapshot.pods.labels import LabelTable
from tangram.snapshot.queues.queues import QueueTable
from tangram.snapshot.requests.amounts import pod_amounts
from tangram.snapshot.requests.matching import tolerates
from tangram.snapshot.requests.reach import NO_LIMITS, Reach
from tangram.snapshot.requests.request import (
    DEVICE_RESOURCES,
    Request,
    placed_key,
    read_request,
    shape_key,
    without_place,
)
from tangram.snapshot.values.growing import grown
from tangram.snapshot.values.models import model_matches
from tangram.snapshot.values.rules import Rules

_FIRST_CHECK = 8
_NEXT_CHECK = 200
"""Arrivals after which the workload is looked at again: often at first, then every so many."""
_NODES_PER_ARRIVAL = 8
"""A large pool is looked at after one arrival for so many nodes: a cycle costs as much more as the pool is larger, and
it takes as many more arrivals to change it as much."""
_FADING = 20_000
"""Arrivals after which all counts are halved, so that the learned workload follows the present."""
_FEW = 512
"""Requests that are kept whether or not anybody uses them."""
_COMMONEST = 256
"""Shapes that are kept for their prices though no pod has them: as many as are priced. Shapes with rules about other
pods are not among them, as rules are often about one job's pods alone."""

Key: TypeAlias = bytes | tuple[object, ...]


class ShapeTable:
    """Keeps ``arrays.Shapes`` true; ``NodeTable`` grows the columns that its rows speak of.

    A row is used again only after ``retain`` has given it back.
    """

    def __init__(self, nodes: NodeTable, queues: QueueTable) -> None:
        self.access = Access()
        self.nodes = nodes
        self.queues = queues
        self.labels = LabelTable(nodes)
        self.requests: dict[int, Request] = {}
        self.keys: dict[Key, int | str] = {}
        self._lacking: dict[str, set[int]] = {}
        """Resource that no node has offered -> the shapes that request it."""
        self._held: set[int] = set()
        """The shapes that only pods with a place have: what no node offers is nowhere taken from what is left."""
        self._placed: dict[int, int] = {}
        """By the row of a shape that waits the row that its pods have once they have a place."""
        self.amounts: dict[int, Int64] = {}
        """Per shape its request as a read-only array, as wide as the columns were when the shape was new."""
        self.rules: list[Rules | None] = []
        """Per shape its rules about other pods."""
        self.added = 0
        """How many shapes have ever been added."""
        self.workload_revision = 0
        self._policy: HybridPolicy | None = None
        self._models_known = 0
        self._models_unread: list[int] = []
        """Shapes whose models have not been translated yet."""
        self._free: list[int] = []
        self._most = _FEW
        self._arrivals = 0
        self._arrived: list[int] = []
        self._unseen = 0
        self.arrays = _empty(0, nodes.columns.width, 1, 0)

    def row_of(self, pod: Pod, rules: Rules | None = None, reach: Reach = NO_LIMITS) -> int | str:
        """The pod's shape row, or the sentence that says why its request cannot be read."""
        pod = self.access.in_its_namespace(pod)
        key: Key = shape_key(pod)
        said = self.labels.said(pod) if self.labels.of_pods else ()
        volumes, counted = (reach.selectors, reach.counted) if reach is not NO_LIMITS else ((), ())
        if rules is not None or volumes or counted or said:
            key = key, rules, volumes, counted, said
        row = self.keys.get(key)
        if row is None:
            row = self._read(key, pod, reach, waits=True)
            if not isinstance(row, str):
                self.rules[row] = rules
                self.labels.note(row, said)
        return row

    def row_of_amounts(self, pod: Pod, reach: Reach = NO_LIMITS) -> int | str:
        """The row of all pods that hold as much and have a place, wherever that is and whatever they say of places:
        a DaemonSet, each of whose pods names its node, is one row. Else as ``row_of``."""
        pod = self.access.where_it_counts(pod)
        plain = placed_key(pod)
        key = (plain, reach.by_driver) if reach.by_driver else plain
        row = self.keys.get(key)
        return self._read(key, without_place(pod), Reach(by_driver=reach.by_driver)) if row is None else row

    def placed(self, row: int, pod: Pod) -> int:
        """The same for a pod that has got a place and waited with a shape in this row."""
        if not self.access.may_use_queue(self.requests[row].queue, pod.metadata.namespace):
            amounts = self.row_of_amounts(pod)
            return row if isinstance(amounts, str) else amounts
        found = self._placed.get(row)
        if found is None:
            pod = self.access.in_its_namespace(pod)
            key = placed_key(pod)
            if key not in self.keys and self._says_only(row, pod):
                self.keys[key] = row
            amounts = self.row_of_amounts(pod)
            found = self._placed[row] = row if isinstance(amounts, str) else amounts
        return found

    def _says_only(self, row: int, pod: Pod) -> bool:
        """Whether a shape says nothing but what the pod holds, so that all who hold as much can have its row."""
        request = self.requests[row]
        places = request.required or request.preferred or request.volumes or request.impossible or request.tolerations
        if places or self.rules[row] is not None or self.labels.speaks_of(row):
            return False
        if any(resource in self._lacking for resource, _ in request.resources):
            return False
        return dict(request.resources) == pod_amounts(pod)

    def _read(self, key: Key, pod: Pod, reach: Reach, *, waits: bool = False) -> int | str:
        row: int | str
        attached = *((volumes_of(driver), count) for driver, count in reach.by_driver), *reach.free
        try:
            request = read_request(pod, reach.selectors, attached)
            counted = DEVICE_RESOURCES | {name for name, _ in attached}
            self.nodes.add_columns(resource for resource, _ in request.resources if resource in counted)
            row = self._add(request, waits=waits)
            self.rules[row] = None
        except ValueError as error:
            row = str(error)
        self.keys[key] = row
        return row

    @property
    def crowded(self) -> bool:
        """Whether so many requests, or words of theirs, are known that it is worth finding out which nobody uses."""
        return len(self.keys) > self._most or self.nodes.taints.crowded

    def retain(self, used: set[int]) -> list[int]:
        """Forget all requests but the used ones and the commonest of late; the rows that are given back."""
        seen = [row for row, count in enumerate(self._arrived) if count and self.rules[row] is None]
        popular = sorted(seen, key=lambda row: -self._arrived[row])[:_COMMONEST]
        kept = used.union(popular) & self.requests.keys()
        freed = sorted(self.requests.keys() - kept)
        self.keys = {key: row for key, row in self.keys.items() if row in kept}
        self._placed = {}
        self._most = max(_FEW, 2 * len(self.keys))
        self._lacking = {name: left for name, rows in self._lacking.items() if (left := rows & kept)}
        for row in freed:
            del self.requests[row], self.amounts[row]
            self.rules[row] = None
        self._held &= kept
        self.arrays.request[freed] = 0
        self._arrived = [count if row in self.requests else 0 for row, count in enumerate(self._arrived)]
        self.arrays.popularity[freed] = 0
        self._free += reversed(freed)
        self.queues.forget_amounts()
        self.labels.forget(freed)
        return freed

    def tolerations(self) -> Iterable[Toleration]:
        """All tolerations of the requests."""
        return chain.from_iterable(request.tolerations for request in self.requests.values())

    def resources(self) -> set[str]:
        """All resources that are requested."""
        found = {resource for request in self.requests.values() for resource, _ in request.resources}
        return found | {NOT_OFFERED} if any(rows - self._held for rows in self._lacking.values()) else found

    def clauses(self) -> set[int]:
        """All clauses that the requests speak of."""
        arrays, found = self.arrays, set[int]()
        for row in self.requests:
            for alternatives in (arrays.required[row], *arrays.reachable[row]):
                found.update(*alternatives)
            found.update(*(terms for _, terms in arrays.preferred[row]))
        return found

    def arrived(self, row: int) -> None:
        """Count an arrival of the shape."""
        if row >= len(self._arrived):
            self._arrived += [0] * (row + 1 - len(self._arrived))
        self._arrived[row] += 1
        self._arrivals += 1
        self._unseen += 1
        if self._arrivals >= _FADING:
            self._arrived = [count // 2 for count in self._arrived]
            self._arrivals //= 2
        few = self._unseen < _NEXT_CHECK or self._unseen < len(self.nodes.rows) // _NODES_PER_ARRIVAL
        if self._unseen < _FIRST_CHECK or (few and self._unseen < self._arrivals // 3):
            return
        self._unseen = 0
        self.workload_revision += 1
        self.arrays.popularity[: len(self._arrived)] = self._arrived

    def set_policy(self, policy: HybridPolicy | None) -> None:
        """Give every shape its class under the policy that is in force."""
        self._policy = policy
        classes = {row: self._class_of(request) for row, request in self.requests.items()}
        self.queues.add_leaves({(self.requests[row].queue, found) for row, found in classes.items()})
        for row, found in classes.items():
            self.arrays.priority_class[row] = found
            self.arrays.leaf[row] = self.queues.leaf(self.requests[row].queue, found)

    def sync(self) -> set[int]:
        """Follow the columns: resources and taints may have been added since the rows were written. The shapes whose
        amounts are others now, as a node has come to offer what they request: whoever holds them counts for more."""
        taints = self.nodes.taints
        known = self.arrays.tolerated.shape[1]
        if self.arrays.request.shape[1] < self.nodes.columns.width or known < taints.values.shape[0]:
            self._reallocate(len(self.arrays.priority_class), self.arrays.ask_count.shape[1])
        changed = set[int]()
        for resource in self._lacking.keys() & self.nodes.columns.of.keys() if self._lacking else ():
            changed |= self._lacking.pop(resource)
        for row in changed:
            self._write_amounts(row)
        for column, taint in taints.take_added():
            for row, request in self.requests.items():
                self.arrays.tolerated[row, column] = _tolerated(request, taint)
        return changed

    def _add(self, request: Request, *, waits: bool) -> int:
        if waits and any(resource not in self.nodes.columns.of for resource, _ in request.resources):
            self.nodes.add_columns([NOT_OFFERED])
        required = tuple(
            tuple(sorted(self.nodes.clause(clause, is_field=is_field) for clause, is_field in alternative))
            for alternative in request.required
        )
        reachable = tuple(
            tuple(
                tuple(sorted(self.nodes.clause(clause, is_field=is_field) for clause, is_field in clauses))
                for clauses in alternatives
            )
            for alternatives in request.volumes
        )
        preferred = tuple(
            (weight, tuple(sorted(self.nodes.clause(clause, is_field=is_field) for clause, is_field in clauses)))
            for weight, clauses in request.preferred
        )
        asks = max(1, len(request.asks))
        row = self._free[-1] if self._free else len(self.rules)
        if (
            row >= len(self.arrays.priority_class)
            or asks > self.arrays.ask_count.shape[1]
            or self.nodes.columns.width > self.arrays.request.shape[1]
        ):
            self._reallocate(max(32, row * 2) if row >= len(self.arrays.priority_class) else 0, asks)
        self._clear(row)
        arrays = self.arrays
        self.requests[row] = request
        self.added += 1
        if not waits:
            self._held.add(row)
        self._write_amounts(row)
        for index, ask in enumerate(request.asks):
            arrays.ask_count[row, index] = ask.count
            arrays.ask_milli[row, index] = ask.milli
            arrays.ask_memory[row, index] = ask.memory
        arrays.ask_containers[row] = tuple(sorted(request.containers, key=attrgetter("container")))
        arrays.required[row] = ((-1,),) if request.impossible else required
        arrays.reachable[row] = reachable
        arrays.preferred[row] = preferred
        self._models_unread.append(row)
        arrays.unfit_isolation[row] = request.unfit_isolation
        arrays.priority_class[row] = self._class_of(request)
        arrays.leaf[row] = self.queues.leaf(request.queue, int(arrays.priority_class[row]))
        self.nodes.distinguish(request.tolerations)
        for column, taint in self.nodes.taints.taints():
            if column < arrays.tolerated.shape[1]:
                arrays.tolerated[row, column] = _tolerated(request, taint)
        return row

    def _write_amounts(self, row: int) -> None:
        """Write what a shape requests of each resource; of all that no node has offered in one column if it waits, and
        nowhere if its pods have a place: they take it from nobody."""
        of, amounts = self.nodes.columns.of, self.arrays.request[row]
        amounts[:] = 0
        for resource, value in self.requests[row].resources:
            if resource in of:
                amounts[of[resource]] = value
                continue
            self._lacking.setdefault(resource, set()).add(row)
            if row not in self._held:
                amounts[of[NOT_OFFERED]] = value
        self.amounts[row] = amounts.copy()
        self.amounts[row].setflags(write=False)

    def _clear(self, row: int) -> None:
        """Take the row for a new shape: the next one, or the last that was given back."""
        arrays = self.arrays
        if row == len(self.rules):
            self.rules.append(None)
            arrays.ask_containers.append(())
            arrays.required.append(())
            arrays.reachable.append(())
            arrays.preferred.append(())
            arrays.models.append(())
            arrays.model_ranks.append(())
            return
        self._free.pop()
        arrays.models[row] = arrays.model_ranks[row] = ()
        for numbers in (arrays.request, arrays.ask_count, arrays.ask_milli, arrays.ask_memory, arrays.tolerated):
            numbers[row] = 0

    def refresh_models(self) -> None:
        """Translate the models that shapes name into rows of the models that nodes have, when either has grown."""
        unread = self._models_unread
        if len(self.nodes.models) > self._models_known:
            self._models_known, unread = len(self.nodes.models), list(self.requests)
        self._models_unread = []
        for row in unread:
            request = self.requests.get(row)
            if request is not None and request.models:
                allowed = dict[int, int]()
                for wanted, rank in zip_longest(request.models, request.model_ranks, fillvalue=0):
                    for model, model_row in self.nodes.models.items():
                        if model_matches(str(wanted), model):
                            allowed.setdefault(model_row, int(rank))
                self.arrays.models[row] = tuple(allowed) or (-1,)
                self.arrays.model_ranks[row] = tuple(allowed.values()) if any(allowed.values()) else ()

    def _class_of(self, request: Request) -> int:
        """Row of the shape's class in the policy; -1 without one."""
        found = class_of(self._policy, request.priority_class or None, request.wants_gpu)
        if found is None or self._policy is None:
            return -1
        return [one.name for one in self._policy.spec.priority_classes].index(found.name)

    def _reallocate(self, rows: int, asks: int) -> None:
        old = self.arrays
        rows = max(rows, len(old.priority_class))
        asks = max(asks, old.ask_count.shape[1])
        self.arrays = grown(old, _empty(rows, self.nodes.columns.width, asks, self.nodes.taints.values.shape[0]))


def _tolerated(request: Request, taint: Taint) -> bool:
    return any(tolerates(toleration, taint) for toleration in request.tolerations)


def _empty(rows: int, resources: int, asks: int, taints: int) -> Shapes:
    return Shapes(
        request=np.zeros((rows, resources), np.int64),
        ask_count=np.zeros((rows, asks), np.int32),
        ask_milli=np.zeros((rows, asks), np.int32),
        ask_memory=np.zeros((rows, asks), np.int32),
        ask_containers=[],
        required=[],
        reachable=[],
        preferred=[],
        models=[],
        model_ranks=[],
        unfit_isolation=np.zeros(rows, np.int8),
        tolerated=np.zeros((rows, taints), np.bool_),
        priority_class=np.full(rows, -1, np.int32),
        leaf=np.full(rows, -1, np.int32),
        popularity=np.zeros(rows, np.int64),
    )
