"""Compiled inner loops: numba with types kept for mypy."""

from collections.abc import Callable
from typing import TypeVar, cast

from numba import njit

F = TypeVar("F", bound=Callable[..., object])


def kernel(function: F) -> F:
    """Compile a loop over plain arrays; the machine code is kept beside the source or in the user's cache folder."""
    return cast("F", njit(cache=True, nogil=True, error_model="numpy")(function))
