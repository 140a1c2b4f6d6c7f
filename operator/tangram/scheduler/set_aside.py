"""Reports objects that could not be taken in: in the log, and by an Event on each."""

import logging
from collections.abc import Iterable

from tangram.api import names
from tangram.cluster.events import Recorder, Regarding
from tangram.snapshot.values.faults import Fault

_log = logging.getLogger(__name__)
_OURS = ("GPUNode", "HybridPolicy")


def report(faults: Iterable[Fault], recorder: Recorder) -> None:
    """Log every fault, and record it on the object that it is about."""
    for fault in faults:
        one = fault.about
        _log.error("%s cannot be read: %s", one, fault.sentence)
        version = names.API_VERSION if one.kind in _OURS else "v1"
        about = Regarding(version, one.kind, one.name, one.namespace, one.uid)
        recorder.record(about, "Unreadable", fault.sentence, warning=True)
