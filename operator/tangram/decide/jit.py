"""Compiled inner loops: numba with types kept for mypy."""

from collections.abc import Callable
from typing import TypeVar, cast

from numba import njit

F = TypeVar("F", bound=Callable[..., object])


def kernel(function: F) -> F:
    """Compile a loop over plain arrays; the machine code is kept beside the source or in the user's cache folder."""
    return cast("F", njit(cache=True, nogil=True, error_model="numpy")(function))


def lean_kernel(function: F) -> F:
    """Compile a loop that makes no arrays: it does not count references to the ones that it is given.

    Counting is atomic and happens for every array of every call, which costs more than a short loop itself.
    """
    return cast("F", njit(cache=True, nogil=True, error_model="numpy", _nrt=False, forceinline=True)(function))
