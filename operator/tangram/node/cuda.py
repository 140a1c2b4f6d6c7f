"""The few calls of the CUDA driver that ``verify`` needs, by ctypes: no toolkit, no framework, no compiler."""

import ctypes
import time
from typing import Any, Final

from tangram.errors import NotReachable
from tangram.units import MIB

_OUT_OF_MEMORY: Final = 2
_NOT_SUPPORTED: Final = 801
_GLOBAL: Final = 1
"""CU_MEM_ATTACH_GLOBAL."""
_MULTIPROCESSORS: Final = 16
"""CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT."""
_THREADS: Final = 256
_BLOCKS_PER_MULTIPROCESSOR: Final = 64
"""Enough blocks for every multiprocessor many times over, so that the last ones to end weigh little."""
_SPIN: Final = b"""
.version 6.0
.target sm_70
.address_size 64
.visible .entry spin(.param .u64 out, .param .u32 rounds)
{
    .reg .pred %again;
    .reg .b32 %value, %round, %rounds;
    .reg .b64 %address, %global;
    ld.param.u64 %address, [out];
    ld.param.u32 %rounds, [rounds];
    cvta.to.global.u64 %global, %address;
    mov.u32 %value, %tid.x;
    mov.u32 %round, 0;
next:
    mad.lo.u32 %value, %value, 1664525, 1013904223;
    add.u32 %round, %round, 1;
    setp.lt.u32 %again, %round, %rounds;
    @%again bra next;
    st.global.u32 [%global], %value;
    ret;
}
\0"""
"""PTX, which the driver compiles for the GPU at hand: each step needs the one before, so that none can be left out."""


class Cuda:
    """The first device that the environment shows, with a context of its own; a context manager.

    Raises NotReachable with the driver's own name for whatever does not work.
    """

    def __init__(self, library: str = "libcuda.so.1") -> None:
        try:
            self._library = ctypes.CDLL(library)
        except OSError as error:
            raise NotReachable(f"the CUDA driver cannot be loaded: {error}") from None
        self._device = ctypes.c_int()
        self._call("cuInit", 0)
        count = ctypes.c_int()
        self._call("cuDeviceGetCount", ctypes.byref(count))
        if not count.value:
            raise NotReachable("the CUDA driver shows no device")
        self._call("cuDeviceGet", ctypes.byref(self._device), 0)

    def __enter__(self) -> "Cuda":
        """Take the device's context and compile the kernel."""
        context, module = ctypes.c_void_p(), ctypes.c_void_p()
        self._function, self._out = ctypes.c_void_p(), ctypes.c_uint64()
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), self._device)
        self._call("cuCtxSetCurrent", context)
        self._call("cuModuleLoadData", ctypes.byref(module), ctypes.c_char_p(_SPIN))
        self._call("cuModuleGetFunction", ctypes.byref(self._function), module, ctypes.c_char_p(b"spin"))
        self._call("cuMemAlloc_v2", ctypes.byref(self._out), ctypes.c_size_t(4))
        return self

    def __exit__(self, *_: object) -> None:
        """Give the context back, and with it all memory."""
        self._library.cuDevicePrimaryCtxRelease_v2(self._device)

    @property
    def name(self) -> str:
        """Of the model."""
        text = ctypes.create_string_buffer(128)
        self._call("cuDeviceGetName", text, ctypes.c_int(len(text)), self._device)
        return text.value.decode("utf-8", "replace")

    @property
    def memory_mib(self) -> int:
        """Of the device as this process sees it: MPS shows its limit here."""
        size = ctypes.c_size_t()
        self._call("cuDeviceTotalMem_v2", ctypes.byref(size), self._device)
        return size.value // MIB

    @property
    def multiprocessors(self) -> int:
        """As this process sees them: MPS shows the part that it leaves."""
        count = ctypes.c_int()
        self._call("cuDeviceGetAttribute", ctypes.byref(count), ctypes.c_int(_MULTIPROCESSORS), self._device)
        return count.value

    def allocate(self, size: int) -> int | None:
        """An address of ``size`` bytes on the device, or None when they are refused."""
        address = ctypes.c_uint64()
        code = self._library.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(size))
        if code == _OUT_OF_MEMORY:
            return None
        self._check("cuMemAlloc_v2", code)
        return address.value

    def allocate_managed(self, size: int) -> int | None:
        """An address of ``size`` bytes of managed memory that lies on the device now, or None when they are refused.

        The driver gives it out before it has a place for it; writing to it from the device brings it there."""
        address = ctypes.c_uint64()
        code = self._library.cuMemAllocManaged(ctypes.byref(address), ctypes.c_size_t(size), ctypes.c_uint(_GLOBAL))
        if code in (_OUT_OF_MEMORY, _NOT_SUPPORTED):
            return None
        self._check("cuMemAllocManaged", code)
        self._call("cuMemsetD8_v2", address, ctypes.c_ubyte(1), ctypes.c_size_t(size))
        self._call("cuCtxSynchronize")
        return address.value

    def free(self, address: int) -> None:
        """Give memory back."""
        self._call("cuMemFree_v2", ctypes.c_uint64(address))

    def spin(self, blocks: int, rounds: int) -> float:
        """Seconds that ``blocks`` blocks take for ``rounds`` rounds of arithmetic each."""
        count = ctypes.c_uint32(rounds)
        pointers = (ctypes.c_void_p * 2)(
            ctypes.cast(ctypes.pointer(self._out), ctypes.c_void_p),
            ctypes.cast(ctypes.pointer(count), ctypes.c_void_p),
        )
        sizes = [ctypes.c_uint(number) for number in (blocks, 1, 1, _THREADS, 1, 1, 0)]
        started = time.perf_counter()
        self._call("cuLaunchKernel", self._function, *sizes, None, pointers, None)
        self._call("cuCtxSynchronize")
        return time.perf_counter() - started

    def _call(self, name: str, *arguments: Any) -> None:
        self._check(name, getattr(self._library, name)(*arguments))

    def _check(self, name: str, code: int) -> None:
        if code:
            text = ctypes.c_char_p()
            self._library.cuGetErrorName(ctypes.c_int(code), ctypes.byref(text))
            raise NotReachable(f"{name}: {(text.value or b'').decode('ascii', 'replace') or f'error {code}'}")
