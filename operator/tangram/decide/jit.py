"""Compiled inner loops: numba with types kept for mypy."""

from collections.abc import Callable
from typing import TypeVar, cast

from numba import njit

from tangram.kernel_cache import kept

F = TypeVar("F", bound=Callable[..., object])


def kernel(function: F) -> F:
    """Compile a loop over plain arrays; the machine code is kept, see ``tangram.kernel_cache``."""
    return cast("F", kept(lambda: njit(cache=True, nogil=True, error_model="numpy")(function)))


def lean_kernel(function: F) -> F:
    """Compile a loop that makes no arrays: it does not count references to the ones that it is given.

    Counting is atomic and happens for every array of every call, which costs more than a short loop itself.
    """
    compiled = njit(cache=True, nogil=True, error_model="numpy", _nrt=False, forceinline=True)
    return cast("F", kept(lambda: compiled(function)))
