"""The lives of a gang: members of one controller are one life, and a controller made anew begins another one.

A job that is deleted and made again under its old name has another uid. Pods of the old one that are still there (the
garbage collector has not come to them yet) are no members of the new gang, nor is anything that they hold or have done.
Several controllers with names of their own, the launcher's and the workers' say, share one life.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from tangram.snapshot.gangs.members import Member, Terms

Key = TypeVar("Key")


@dataclass(slots=True)
class Life:
    """The members of a gang that belong to one controller, or to none."""

    controller: str
    """``Kind/name``; empty: these pods have no controller."""
    terms: dict[Terms, int] = field(default_factory=dict)
    """What its members say, and how many say it."""
    roles: dict[str, int] = field(default_factory=dict)
    created: dict[int, int] = field(default_factory=dict)
    """When its members were made, in seconds since the epoch, and how many at each second."""
    bound: dict[tuple[str, str], int] = field(default_factory=dict)
    """(role, node) -> its members that have their places there."""

    def add(self, member: Member) -> bool:
        """Count a member; True when nobody said, or did, the same before."""
        terms, roles, created = self.terms, self.roles, self.created
        is_new = member.terms not in terms or member.role not in roles
        terms[member.terms] = terms.get(member.terms, 0) + 1
        roles[member.role] = roles.get(member.role, 0) + 1
        created[member.created] = created.get(member.created, 0) + 1
        return is_new

    def remove(self, member: Member) -> bool:
        """Count a member no longer; True when nobody else says, or does, the same."""
        _less(self.created, member.created)
        last_of_role = _less(self.roles, member.role)
        return _less(self.terms, member.terms) or last_of_role

    def bind(self, role: str, node: str, members: int) -> None:
        """Count members that have got their places, or lost them."""
        place = role, node
        self.bound[place] = self.bound.get(place, 0) + members
        if not self.bound[place]:
            del self.bound[place]


def _less(counts: dict[Key, int], key: Key) -> bool:
    """Take one away; True when it was the last."""
    counts[key] -= 1
    if counts[key]:
        return False
    del counts[key]
    return True


def past_lives(lives: Mapping[str, Life]) -> set[str]:
    """Owner uids of the lives that are over: of the controllers of one name only the one with the newest pod counts."""
    newest: dict[str, tuple[int, str]] = {}
    if len(lives) > 1:
        for owner, life in lives.items():
            age = (max(life.created, default=0), owner)
            newest[life.controller] = max(newest.get(life.controller, age), age)
    return {
        owner for owner, life in lives.items() if newest and life.controller and newest[life.controller][1] != owner
    }


def terms_of(lives: Iterable[Life]) -> list[Terms]:
    """What the members of these lives say of the gang, each once."""
    return list(dict.fromkeys(terms for life in lives for terms in life.terms))
