"""Which queue and class a pod is in, and whether its namespace may use them.

A pod's labels name both. The label ``names.QUEUE`` of a namespace names the queue of those of its pods
that name none, or ``default``. Queues and classes may be for some namespaces only: else any tenant could have others
evicted by another team's guarantee.
"""

from collections.abc import Mapping, Set

from msgspec.structs import replace

from tangram.api import names
from tangram.api.objects import Metadata, Pod
from tangram.api.policy import HybridPolicy, PriorityClass, class_of, first_match
from tangram.api.queue import Queue
from tangram.api.selector import NamespaceSelector
from tangram.plan import Reason
from tangram.snapshot.queues.queues import DEFAULT_QUEUE
from tangram.snapshot.requests.request import Request, wants_gpu

_NAME = "kubernetes.io/metadata.name"
"""The label that the API server puts on every namespace."""
BY_POLICY = frozenset(
    {Reason.QUEUE_NOT_ALLOWED, Reason.CLASS_UNKNOWN, Reason.CLASS_NOT_ALLOWED, Reason.QUEUE_HELD, Reason.QUEUE_UNKNOWN}
)
"""Reasons for which a pod is not started that a change of the policy can bring about."""
Obstacle = tuple[Reason, str]


class Access:
    """Follows the policy and the labels of namespaces."""

    def __init__(self) -> None:
        self._policy: HybridPolicy | None = None
        self._namespaces: dict[str, Mapping[str, str]] = {}
        self._paths: dict[str, tuple[Queue, ...]] = {}
        """By its name a queue and those above it, as far as they say who may use them, or are held."""
        self._restricted = False
        """Whether a class is for some namespaces only."""
        self._known: Set[str] = frozenset()
        """Names of queues."""
        self._defaults = 0
        """Namespaces that name a queue for their pods."""
        self._given: dict[str, tuple[PriorityClass | None, PriorityClass | None]] = {}
        """By namespace what ``_first_allowed`` says of pods without and with GPUs."""

    def set_policy(self, policy: HybridPolicy | None) -> bool:
        """Follow the policy in force; whether pods may be in another class or queue by where they are."""
        was_selective = self._is_selective()
        queues = {one.name: one for one in policy.spec.queues} if policy is not None else {}
        self._policy, self._paths, self._given, self._known = policy, {}, {}, queues.keys()
        self._restricted = policy is not None and any(one.namespace_selector for one in policy.spec.priority_classes)
        for name in queues:
            path, above = list[Queue](), queues.get(name)
            while above is not None:
                if above.namespace_selector is not None or above.hold != "None":
                    path.append(above)
                above = queues.get(above.parent or "")
            if path:
                self._paths[name] = tuple(path)
        return was_selective or self._is_selective()

    def set_namespace(self, name: str, labels: Mapping[str, str] | None) -> bool:
        """Take in a namespace's labels, None when it is gone; whether its pods may be read otherwise now."""
        was_known, before = name in self._namespaces, self._namespaces.get(name, {})
        if labels is not None:
            self._namespaces[name] = dict(labels)
        else:
            self._namespaces.pop(name, None)
        now = self._namespaces.get(name, {})
        self._given = {}
        self._defaults += bool(now.get(names.QUEUE)) - bool(before.get(names.QUEUE))
        return (before != now or was_known != (labels is not None)) and (
            self._is_selective() or before.get(names.QUEUE) != now.get(names.QUEUE)
        )

    def queue_of(self, metadata: Metadata) -> str:
        """The queue of a pod; empty: the default queue."""
        named = metadata.labels.get(names.QUEUE, "")
        if named not in ("", DEFAULT_QUEUE):
            return named
        return self._namespaces.get(metadata.namespace, {}).get(names.QUEUE) or named

    def named_by_namespace(self, queue: str, namespace: str) -> str:
        """What of a namespace names a queue for its pods, in words; empty: it does not."""
        its = self._namespaces.get(namespace, {}).get(names.QUEUE)
        return f"the label {names.QUEUE} of namespace {namespace}" if its == queue else ""

    def in_its_namespace(self, pod: Pod) -> Pod:
        """The pod with the queue and the class that it gets by where it is; mostly the pod itself."""
        if not (self._defaults or self._restricted):
            return pod
        metadata = pod.metadata
        queue, changed = self.queue_of(metadata), dict[str, str]()
        if queue != metadata.labels.get(names.QUEUE, ""):
            changed[names.QUEUE] = queue
        unnamed = self._restricted and not metadata.labels.get(names.PRIORITY_CLASS)
        if unnamed and (found := self._first_allowed(metadata.namespace, pod)) is not None:
            changed[names.PRIORITY_CLASS] = found.name
        if not changed:
            return pod
        return replace(pod, metadata=replace(metadata, labels={**metadata.labels, **changed}))

    def where_it_counts(self, pod: Pod) -> Pod:
        """A pod that has its place, in the queue that it is counted in."""
        pod = self.in_its_namespace(pod)
        metadata = pod.metadata
        if self.may_use_queue(metadata.labels.get(names.QUEUE, ""), metadata.namespace):
            return pod
        labels = {**metadata.labels, names.QUEUE: self.counted_in(metadata)}
        return replace(pod, metadata=replace(metadata, labels=labels))

    def counted_in(self, metadata: Metadata) -> str:
        """The queue in which a pod that has its place is counted, empty: the default queue. A label of a queue that is
        not for its namespace takes it out of no limit: it counts in its namespace's queue, or in the default queue."""
        named, namespace = self.queue_of(metadata), metadata.namespace
        if self.may_use_queue(named, namespace):
            return named
        own = self._namespaces.get(namespace, {}).get(names.QUEUE, "")
        return own if own in self._known and self.may_use_queue(own, namespace) else ""

    def obstacle(self, metadata: Metadata, request: Request) -> Obstacle | None:
        """Why a pod with this request must not be started; None: it may."""
        for queue in self._paths.get(request.queue or DEFAULT_QUEUE, ()):
            if not self._may(queue.namespace_selector, metadata.namespace):
                return Reason.QUEUE_NOT_ALLOWED, _not_for(metadata.namespace, "queue", queue.name)
        if (request.priority_class or self._restricted) and (found := self._class_obstacle(metadata, request)):
            return found
        for queue in self._paths.get(request.queue or DEFAULT_QUEUE, ()):
            if queue.hold != "None":
                return Reason.QUEUE_HELD, f"queue {queue.name} is held by the policy and starts no pods"
        return None

    def may_use_queue(self, queue: str, namespace: str) -> bool:
        """Whether a queue is for a namespace, as far as the selectors say."""
        if not self._paths:
            return True
        path = self._paths.get(queue or DEFAULT_QUEUE, ())
        return all(self._may(one.namespace_selector, namespace) for one in path)

    def drained(self) -> frozenset[str]:
        """The queues whose running pods are to leave."""
        drained = (name for name, path in self._paths.items() if any(one.hold == "HoldAndDrain" for one in path))
        return frozenset(drained)

    def _is_selective(self) -> bool:
        """Whether a queue or a class is for some namespaces only."""
        return self._restricted or any(one.namespace_selector for path in self._paths.values() for one in path)

    def _class_obstacle(self, metadata: Metadata, request: Request) -> Obstacle | None:
        named = request.priority_class
        found = class_of(self._policy, named, request.wants_gpu)
        if found is None and not named:
            return None
        if found is None:
            classes = self._policy.spec.priority_classes if self._policy is not None else ()
            known = ", ".join(sorted(one.name for one in classes)) or "none, as the policy has no classes"
            return Reason.CLASS_UNKNOWN, f"class {named!r} does not exist; allowed: {known}"
        if self._may(found.namespace_selector, metadata.namespace):
            return None
        return Reason.CLASS_NOT_ALLOWED, _not_for(metadata.namespace, "class", found.name)

    def _first_allowed(self, namespace: str, pod: Pod) -> PriorityClass | None:
        """The class of a pod that names none, where that is another one than if its namespace could use all."""
        given = self._given.get(namespace)
        if given is None:
            classes = self._policy.spec.priority_classes if self._policy is not None else ()
            allowed = [one for one in classes if self._may(one.namespace_selector, namespace)]
            plain, with_gpus = (
                None if (found := first_match(allowed, gpus)) is first_match(classes, gpus) else found
                for gpus in (False, True)
            )
            given = self._given[namespace] = plain, with_gpus
        if given[0] is None and given[1] is None:
            return None
        try:
            return given[wants_gpu(pod)]
        except ValueError:
            return None  # whoever reads the pod says what is wrong

    def _may(self, selector: NamespaceSelector | None, namespace: str) -> bool:
        """Of a namespace that is not known yet nothing is known but its name: it is selected by that alone."""
        if selector is None:
            return True
        labels = self._namespaces.get(namespace)
        if labels is not None:
            return selector.selects(labels)
        return selector.is_about(_NAME) and selector.selects({_NAME: namespace})


def _not_for(namespace: str, what: str, name: str) -> str:
    return f"namespace {namespace} is not selected by the namespaceSelector of {what} {name}"
