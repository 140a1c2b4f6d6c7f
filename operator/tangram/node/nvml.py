"""NVML's Python bindings with three kinds of answers: a value, "not reported" (None), and one of two failures.

The driver is not trusted: numbers are held to what is possible, texts to what is printable.
"""

import ctypes
import re
from collections.abc import Callable
from typing import Any, TypeVar

from tangram import errors

T = TypeVar("T")
MOST_GPUS = 64
MOST_MIB = 2**31 - 1
_UNPRINTABLE = re.compile(r"[^ -~]")


class GpuGone(Exception):
    """One GPU does not answer any more; the others may."""


class DriverGone(Exception):
    """The library has to be initialised again, or there is no driver."""


class Nvml:
    """The bindings, loaded when this is made; raises ProbeFailed where they or the library are missing."""

    def __init__(self) -> None:
        try:
            import pynvml
        except ImportError as error:
            raise errors.ProbeFailed(f"NVIDIA's bindings are not installed: {error}") from None
        self.names: Any = pynvml
        self._gone = {pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_RESET_REQUIRED, pynvml.NVML_ERROR_GPU_NOT_FOUND}
        self._driver = {
            pynvml.NVML_ERROR_UNINITIALIZED,
            pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
            pynvml.NVML_ERROR_LIBRARY_NOT_FOUND,
            pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH,
        }

    def ask(self, function: str, *arguments: Any) -> Any:
        """The answer; None when it is not reported. Raises GpuGone and DriverGone."""
        try:
            return getattr(self.names, function)(*arguments)
        except self.names.NVMLError as error:
            if error.value in self._gone:
                raise GpuGone(str(error)) from None
            if error.value in self._driver:
                raise DriverGone(str(error)) from None
            return None
        except (ValueError, TypeError, AttributeError, OSError, ctypes.ArgumentError):
            return None  # a text that is none, or bindings that are older than the question

    def need(self, function: str, *arguments: Any) -> Any:
        """As ``ask``, for what every GPU must report: one that does not counts as gone."""
        answer = self.ask(function, *arguments)
        if answer is None:
            raise GpuGone(f"it does not answer {function}")
        return answer

    def ask_driver(self, function: str, *arguments: Any) -> Any:
        """As ``ask``, for what is not about one GPU. Raises DriverGone only."""
        try:
            return self.ask(function, *arguments)
        except GpuGone as error:
            raise DriverGone(str(error)) from None

    def initialise(self) -> None:
        """Begin to use the driver; raises DriverGone with the reason."""
        try:
            self.names.nvmlInit()
        except self.names.NVMLError as error:
            raise DriverGone(str(error)) from None

    def shut_down(self) -> None:
        """Stop using the driver, whatever its state."""
        self.ask_quietly("nvmlShutdown")

    def ask_quietly(self, function: str, *arguments: Any) -> Any:
        """As ``ask``, with None for every failure."""
        try:
            return self.ask(function, *arguments)
        except (GpuGone, DriverGone):
            return None

    def ask_pid_use(self, device: Any, since: int) -> list[Any] | None:
        """Samples of what processes use after ``since`` (microseconds); None when the driver does not report."""
        try:
            return list(self.names.nvmlDeviceGetProcessUtilization(device, since))
        except self.names.NVMLError as error:
            return [] if error.value == self.names.NVML_ERROR_NOT_FOUND else None
        except (ValueError, TypeError, OSError):
            return None

    def next_xid(self, events: Any, milliseconds: int) -> tuple[int, int] | None:
        """(address of the device's handle, XID) of the next event; None when none comes in time.

        Raises GpuGone and DriverGone."""
        try:
            event = self.names.nvmlEventSetWait_v2(events, milliseconds)
        except self.names.NVMLError as error:
            if error.value == self.names.NVML_ERROR_TIMEOUT:
                return None
            if error.value in self._driver:
                raise DriverGone(str(error)) from None
            raise GpuGone(str(error)) from None
        return address(event.device), int(event.eventData)


def address(device: Any) -> int:
    """What makes a handle the same as another."""
    return ctypes.cast(device, ctypes.c_void_p).value or 0


def number(answer: Any, most: int, least: int = 0) -> int | None:
    """A count that can be; None for what cannot."""
    if not isinstance(answer, int | float) or not least <= answer <= most:
        return None
    return int(answer)


def text(answer: Any, longest: int) -> str:
    """What can be printed of an answer."""
    if isinstance(answer, bytes):
        answer = answer.decode("ascii", "replace")
    return _UNPRINTABLE.sub("", answer)[:longest].strip() if isinstance(answer, str) else ""


def retried(attempt: Callable[[], T], reopen: Callable[[], None]) -> T:
    """``attempt``, once more after ``reopen`` when the driver was loaded again meanwhile; raises ProbeFailed."""
    try:
        return attempt()
    except DriverGone:
        reopen()
    try:
        return attempt()
    except DriverGone as error:
        raise errors.ProbeFailed(f"NVIDIA's driver does not answer: {error}") from None
