"""Plugins that do not return: a thread looks at who is being asked, names him in the log, and ends the call.

Decisions are made in the main thread, and while one waits for a plugin nothing else happens there: no Lease is renewed
and no probe answered. The call is ended by a signal, whose handler runs in the main thread between two steps of Python
code and raises ``PluginTimeout`` there; code that does not come back to Python cannot be ended, and is only named.
"""

import logging
import signal
import threading
from types import FrameType

from tangram.decide.registry import Registry
from tangram.errors import PluginTimeout

SECONDS = 5.0
"""What a plugin has for one answer: a Lease has to be renewed within twice as long."""
_CHECKS = 5
"""How often a call is seen before it has had that time."""
_AGAIN = 0.01
"""Seconds after which a call that goes on is ended again: a plugin may catch everything, for each of many nodes."""
_SIGNAL = signal.SIGUSR1
_log = logging.getLogger(__name__)


class PluginWatch:
    """Watches from ``start`` on, which has to be called in the main thread, until ``stop``."""

    def __init__(self, registry: Registry, seconds: float = SECONDS) -> None:
        self._strangers, self._asking, self._seconds = bool(registry.strangers), registry.asking, seconds
        self._ended = threading.Event()
        self._too_long: tuple[str, str] | None = None
        """The call that is to be ended: each is known by an object of its own."""
        self._thread = threading.Thread(target=self._watch, name="plugin-watch", daemon=True)

    def start(self) -> None:
        """Begin to watch; no thread is needed where all plugins are built in."""
        if self._strangers:
            signal.signal(_SIGNAL, self._end_call)
            self._thread.start()

    def stop(self) -> None:
        """Watch no longer."""
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join()
            signal.signal(_SIGNAL, signal.SIG_IGN)

    def _watch(self) -> None:
        seen, times = self._asking.asked, 0
        while not self._ended.wait(_AGAIN if times >= _CHECKS else self._seconds / _CHECKS):
            asked = self._asking.asked
            times = times + 1 if asked is seen and asked is not None else 0
            seen = asked
            if asked is None or times < _CHECKS:
                continue
            if times == _CHECKS:
                self._too_long = asked
                _log.error("plugin %s has not answered %s for %g s; nothing is decided", *asked, self._seconds)
            signal.pthread_kill(threading.main_thread().ident or 0, _SIGNAL)

    def _end_call(self, _number: int, _frame: FrameType | None) -> None:
        asked = self._asking.asked
        if asked is None or asked is not self._too_long:
            return
        name, hook = asked
        self._asking.hung[name] = (
            f"it has not answered {hook} for {self._seconds:g} s, and is asked no more until the scheduler starts again"
        )
        raise PluginTimeout(self._asking.hung[name])
