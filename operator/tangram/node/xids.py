"""What NVIDIA's XID errors mean for the GPU that had one: data, not code.

Meanings and actions follow NVIDIA's XID catalogue (https://docs.nvidia.com/deploy/xid-errors/analyzing-xid-catalog.html):
what it answers with RESTART_APP leaves the GPU as it was, RESET_GPU and RESTART_BM do not. 109 is a reset there and an
application's fault in NVIDIA's device plugin, so it is only waited out here; 94 is contained in the application, but
says that memory fails.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType


class Effect(StrEnum):
    """What an XID error does to the health of its GPU."""

    APPLICATION = "application"
    """None: the application's own fault, or a consequence of another error."""
    WARNING = "warning"
    """None yet; many of them predict a failure."""
    CAUTION = "caution"
    """It takes no new work until it has been quiet for a while."""
    RESET = "reset"
    """It is not fit for work until it has been reset."""


@dataclass(frozen=True, slots=True)
class Xid:
    """One kind of XID error."""

    meaning: str
    effect: Effect


_APPLICATION = {
    8: "GPU stopped processing",
    11: "invalid or corrupted push buffer stream",
    13: "graphics engine exception",
    31: "memory page fault",
    32: "invalid or corrupted push buffer stream",
    37: "driver firmware error",
    43: "application stopped processing",
    45: "preemptive cleanup after an earlier error",
    68: "video decoder exception",
    69: "graphics engine class error",
    80: "corrupted data sent to the GPU",
    154: "recovery action changed",
}
_WARNING = {
    93: "write limit of the InfoROM exceeded",
    108: "NVLink remote translation error",
    121: "corrected error between CPU and GPU",
    137: "NVLink privilege error",
    160: "channel retired",
}
_CAUTION = {
    38: "driver firmware error",
    63: "row remapped or page retired",
    92: "high rate of corrected memory errors",
    94: "contained memory error",
    109: "context switch timeout",
    157: "failure to retire a resource",
    168: "reduced memory capacity",
    171: "uncorrectable DRAM error",
    172: "uncorrectable SRAM error",
}
_RESET = {
    46: "GPU stopped processing",
    48: "double-bit memory error",
    54: "auxiliary power is not connected",
    61: "internal microcontroller breakpoint",
    62: "internal microcontroller halt",
    64: "row remapping or page retirement failed",
    74: "NVLink error",
    79: "GPU has fallen off the bus",
    95: "uncontained memory error",
    110: "security fault",
    119: "GSP does not answer",
    120: "GSP error",
    136: "NVLink training failed",
    140: "unrecovered memory error",
    143: "GPU initialization failed",
    149: "NVLink network interface error",
    150: "NVLink management error",
    151: "key rotation error",
    155: "NVLink error found by software",
    156: "resource retired",
    158: "fatal timeout",
    167: "fatal PCIe timeout",
}
XIDS: Mapping[int, Xid] = MappingProxyType(
    {
        number: Xid(meaning, effect)
        for effect, table in (
            (Effect.APPLICATION, _APPLICATION),
            (Effect.WARNING, _WARNING),
            (Effect.CAUTION, _CAUTION),
            (Effect.RESET, _RESET),
        )
        for number, meaning in table.items()
    }
)
_UNKNOWN = Xid("not in the table", Effect.CAUTION)


def xid(number: int) -> Xid:
    """What is known of an XID error; one that is not in the table is waited out, because it may be anything."""
    return XIDS.get(number, _UNKNOWN)
