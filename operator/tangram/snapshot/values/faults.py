"""Objects that could not be taken in: each is set aside and named, and everything else goes on."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Subject:
    """An object by its kind and name."""

    kind: str
    name: str
    namespace: str = ""
    uid: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"


@dataclass(frozen=True, slots=True, order=True)
class Fault:
    """What was wrong with an object, and what that means for it."""

    about: Subject
    sentence: str


class FaultTable:
    """The objects that are set aside now, and the faults that nobody has been reported of yet."""

    def __init__(self) -> None:
        self.current: dict[Subject, Fault] = {}
        self._unreported: dict[Subject, Fault] = {}

    def note(self, about: Subject, error: Exception, consequence: str) -> None:
        """An object could not be taken in; the same fault of it is reported once for as long as it lasts."""
        fault = Fault(about, f"{type(error).__name__}: {str(error)[:_LONGEST]}; {consequence}")
        if self.current.get(about) != fault:
            self.current[about] = self._unreported[about] = fault

    @contextmanager
    def noted(self, about: Subject, consequence: str) -> Iterator[None]:
        """Whatever is raised while the object is taken in is noted, and ends nothing."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - one object must not end the scheduler
            self.note(about, error, consequence)
        else:
            self.clear(about)

    def clear(self, about: Subject) -> None:
        """The object has been taken in, or is gone."""
        self.current.pop(about, None)
        self._unreported.pop(about, None)

    def take(self) -> tuple[Fault, ...]:
        """The faults since the last call."""
        found, self._unreported = tuple(self._unreported.values()), {}
        return found


_LONGEST = 200
"""Characters of an error's own words that are repeated: they may quote the object."""
