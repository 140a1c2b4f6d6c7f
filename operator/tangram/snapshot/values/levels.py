"""Levels of topology as values: which nodes are near each other, and which gangs ask for that."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class SharedReach(NamedTuple):
    """A claim that members of a gang share, and where its volume may be reached."""

    claim: str
    levels: tuple[int, ...]
    """The members that name it must share one domain of one of these levels; none: nobody knows where it will be
    reached."""
    row: int = -1
    """One of those members must be on this node row, for which the volume is being made; -1: none has been chosen."""


@dataclass(frozen=True, slots=True, eq=False)
class Topology:
    """L levels, widest first. A domain is nodes with equal labels of its level and of every wider one.

    So a domain lies within one domain of each wider level, whatever names two data centres give to their racks. Behind
    them are V further ones, for gangs whose members get one volume: nodes of a domain reach the same.
    """

    levels: tuple[str, ...] = ()
    """[L] names of the levels."""
    labels: tuple[str, ...] = ()
    """[L] the node label of each level."""
    domain: npt.NDArray[np.int32] = field(default_factory=lambda: np.zeros((0, 0), np.int32))
    """[L + V, N] domain of each node row; -1: the node has no such label."""
    names: tuple[tuple[str, ...], ...] = ()
    """Per level the names of its domains."""
    usual: int = -1
    """Level of which a gang that says nothing has its members share one domain if possible; -1: none."""
    required: Mapping[int, int] = field(default_factory=dict)
    """Gang row -> level of which its members must share one domain; of gangs that wait."""
    preferred: Mapping[int, int] = field(default_factory=dict)
    """Gang row -> level of which its members share one domain if possible; of gangs that wait."""
    claims: Mapping[int, str] = field(default_factory=dict)
    """Gang row -> the volume claim by which its members must share a domain of the required level: all of them get the
    one volume that has yet to be chosen for it."""
    shared: Mapping[int, tuple[SharedReach, ...]] = field(default_factory=dict)
    """Gang row -> claims whose members must share one domain each; of gangs of which some members do not name one, or
    that may get volumes whose nodes overlap."""
    volumes: Mapping[int, tuple[tuple[str, int], ...]] = field(default_factory=dict)
    """Gang row -> (storage class, how many free volumes suit) of each claim that its members share and for which none
    has been chosen, of classes whose volumes are there."""
    taken: Mapping[int, npt.NDArray[np.int32]] = field(default_factory=dict)
    """Gang row -> node rows of its bound members, decisions in flight included; of gangs that wait."""


NO_TOPOLOGY = Topology()
