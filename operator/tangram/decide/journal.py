"""One journal for everything that a decision changes: what is tried can be forgotten as a whole.

Whoever is about to change something hands in a copy of it first; the first copy of a key holds. So nobody writes an
inverse of what he did, and a trial that ends half-way leaves nothing behind. While nothing is tried, nothing is copied.
"""

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ParamSpec

Restore = Callable[[], None]
Arguments = ParamSpec("Arguments")


@dataclass(slots=True)
class Attempt:
    """Something that is tried; it is rolled back at the end unless it was committed."""

    committed: bool = False

    def commit(self) -> None:
        """What was done in this attempt holds, as far as the attempt around it does."""
        self.committed = True


class Journal:
    """First copies of what has been changed in each of the nested transactions that are open."""

    def __init__(self) -> None:
        self._open: list[dict[Hashable, Restore]] = []

    @property
    def is_open(self) -> bool:
        """Whether anything is being tried."""
        return bool(self._open)

    def keep(
        self,
        key: Hashable,
        copy: Callable[Arguments, Restore],
        *args: Arguments.args,
        **kwargs: Arguments.kwargs,
    ) -> None:
        """Before what ``key`` stands for is changed: ``copy`` is called for a way to put it back, once in a
        transaction and not at all where none is open."""
        if self._open and key not in self._open[-1]:
            self._open[-1][key] = copy(*args, **kwargs)

    def begin(self) -> None:
        """Open a transaction within those that are open."""
        self._open.append({})

    def commit(self) -> None:
        """What the innermost transaction changed holds, as far as the one around it does."""
        inner = self._open.pop()
        if self._open:
            outer = self._open[-1]
            for key, restore in inner.items():
                outer.setdefault(key, restore)

    def rollback(self) -> None:
        """Put everything back as it was when the innermost transaction began."""
        for restore in self._open.pop().values():
            restore()

    @contextmanager
    def attempt(self) -> Iterator[Attempt]:
        """A transaction around a block: rolled back at its end, by an exception too, unless it is committed."""
        attempt = Attempt()
        self.begin()
        try:
            yield attempt
        except BaseException:
            self.rollback()
            raise
        if attempt.committed:
            self.commit()
        else:
            self.rollback()
