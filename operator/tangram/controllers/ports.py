"""To which port the Services of an InferenceService send. Pure.

The rules of this file:

- A replica listens on the port that its service had when it was made. While another port is rolled out there are
  replicas of both: a Service sends where more of its ready ones listen, and to the port of now where it is as many.
- The hash of a replica's template shows which port that was: the port is a part of it. Nothing is believed that a
  template may set, such as the variable ``TANGRAM_PORT``, a probe, or the ports of its containers.
- A hash can be tried only. Tried are the spec, what the replicas are to be made from and what the status remembers,
  each with the ports of all of them and those to which the Services send now: a rollout may be followed by another one
  before anything of it is remembered.
- A replica of which no hash shows it counts for the port to which the Service sends: that is where it was reached.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tangram.api import names
from tangram.api.inference import InferenceService
from tangram.api.views import PodView, ServiceView
from tangram.controllers.actions import Manifest
from tangram.controllers.identity import is_foreign, template_hash
from tangram.controllers.manifests import service_services
from tangram.controllers.observed import ObservedService
from tangram.controllers.rollback import remembered
from tangram.controllers.rollout import Replicas
from tangram.controllers.sameness import is_made_from

_HIGHEST = 65535


@dataclass(frozen=True, slots=True)
class Sending:
    """The Services of a service, and what they leave out."""

    services: tuple[Manifest, ...]
    """As they should be, each with the port to which it is to send."""
    said: str = ""
    """How many ready replicas the Service of all of them does not reach, as a part of a sentence; empty: none."""


def sending(observed: ObservedService, service: InferenceService, groups: Iterable[Replicas]) -> Sending:
    """The Services of ``service``, which is what its replicas are to be made from."""
    there = {one.name: one for one in observed.services}
    groups = tuple(groups)
    ready = [pod for group in groups for pod in group.alive if pod.ready]
    made = dict.fromkeys((pod.metadata.uid for group in groups for pod in group.fresh), service.spec.port)
    if any(pod.metadata.uid not in made for pod in ready):
        found = _Candidates(observed, service)
        made |= {pod.metadata.uid: found.port_of(pod) for pod in ready if pod.metadata.uid not in made}
    manifests, said = service_services(service), ""
    for manifest in manifests:
        (port,) = manifest["spec"]["ports"]
        name, wanted = manifest["metadata"]["name"], manifest["spec"]["selector"].items()
        now = _port_of(there[name]) if name in there else 0
        own = (pod for pod in ready if wanted <= pod.metadata.labels.items())
        listening = Counter(made[pod.metadata.uid] or now or port["targetPort"] for pod in own)
        port["targetPort"] = _most(listening, port["targetPort"])
        if name == service.metadata.name:
            said = _left_out(listening, port["targetPort"])
    return Sending(tuple(manifests), said)


def _most(listening: Counter[int], wanted: int) -> int:
    """The port on which most listen; the one that is wanted where it is as many, or nobody does."""
    return max(listening, key=lambda one: (listening[one], one == wanted, one), default=wanted)


def _left_out(listening: Counter[int], target: int) -> str:
    others = sorted(port for port in listening if port != target)
    if not others:
        return ""
    count = sum(listening[port] for port in others)
    where = " and ".join(map(str, others))
    return f"; {count} of {listening.total()} ready replicas are not reached: they listen on {where}, not on {target}"


def _port_of(service: ServiceView) -> int:
    """The port to which a Service sends; 0 where it has none by number, or a senseless one."""
    ports = [one.target_port for one in service.spec.ports]
    return ports[0] if len(ports) == 1 and isinstance(ports[0], int) and 1 <= ports[0] <= _HIGHEST else 0


class _Candidates:
    """The services that a replica may have been made from: as written, and with each other's ports."""

    def __init__(self, observed: ObservedService, service: InferenceService) -> None:
        last = remembered(observed.service, observed.status.proven)
        self._whole = observed.whole
        written = [one for one in (last, service, observed.service) if one is not None]
        ports = dict.fromkeys([one.spec.port for one in written] + [_port_of(one) for one in observed.services])
        others = (_with_port(one, port) for port in ports if port for one in written if one.spec.port != port)
        self._all = (*written, *others)
        self._by_hash = dict(_hashes(self._all))

    def port_of(self, pod: PodView) -> int:
        """The port that a replica was made with; 0 where it is not shown."""
        text = pod.label(names.TEMPLATE_HASH)
        if not is_foreign(text):
            return self._by_hash.get(text, 0)
        fitting = (
            one.spec.port
            for one in self._all
            if any(is_made_from(one, revision, pod, self._whole) for revision in one.spec.revisions)
        )
        return next(fitting, 0)


def _with_port(service: InferenceService, port: int) -> InferenceService:
    return service.model_copy(update={"spec": service.spec.model_copy(update={"port": port})})


def _hashes(services: Iterable[InferenceService]) -> Iterator[tuple[str, int]]:
    """Hash and port of each template."""
    for service in services:
        yield from ((template_hash(service, revision), service.spec.port) for revision in service.spec.revisions)
