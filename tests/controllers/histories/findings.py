"""What is counted: each is 0 when all is well."""

from dataclasses import dataclass
from enum import StrEnum


class Count(StrEnum):
    """What must never be, as a line of the table that is printed."""

    DUPLICATED = "pods duplicated: two living pods of one replica, of two attempts, or more replicas than allowed"
    LOST = "pods lost: wanted at rest and not there"
    RERUN = "pods re-run: created for a job that had ended"
    TAKEN = "pods deleted that were wanted"
    MISCOUNTED = "restarts counted that nobody's failure explains"
    RESTLESS = "objects that are written at rest, or not as their spec says"
    EXCEPTIONS = "exceptions"


@dataclass(frozen=True, slots=True)
class Finding:
    """One of them."""

    count: Count
    second: float
    """Since the beginning of its history."""
    sentence: str
