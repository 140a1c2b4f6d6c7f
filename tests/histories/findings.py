"""What is counted: each is 0 when all is well."""

from dataclasses import dataclass
from enum import StrEnum


class Count(StrEnum):
    """What must never be, as a line of the table that is printed."""

    UNDONE = "evictions of a pod that an earlier cycle placed, without news in between"
    MEMORY = "decisions that differ from those without a memory"
    FRESH = "decisions that differ from those of a new process"
    ELSEWHERE = "places that differ from those of a new process"
    ILLEGAL = "illegal snapshots, plans and worlds"
    PARTED = "gangs bound in part at rest"
    RESTLESS = "worlds that move at rest"
    STARVED = "pods that fit and wait at rest"
    EXCEPTIONS = "exceptions"
    WASTED = "pods evicted for a claim that another victim had thwarted before"
    LIMITS = "queue limits exceeded"


@dataclass(frozen=True, slots=True)
class Finding:
    """One of them."""

    count: Count
    second: int
    """Since the beginning of its history."""
    sentence: str
