"""What is asked of the API server for single actions."""

import asyncio
from typing import Any, cast

from tests.decide.test_existing_volumes import claim, disk, world

from tangram.cluster.outcome import Outcome, Result
from tangram.cluster.rest import Client
from tangram.plan import PodName, Provision
from tangram.scheduler.requests import carry_out
from tangram.snapshot.requests.volumes import VolumeTable


class Server:
    """Takes everything, and keeps the paths."""

    def __init__(self) -> None:
        self.paths: list[str] = []

    async def request(self, method: str, path: str, **_: Any) -> bytes:
        self.paths.append(f"{method} {path}")
        return b"{}"


def provided(volumes: VolumeTable, name: str) -> tuple[Outcome, list[str]]:
    server, choice = Server(), Provision(PodName("default", "p", "uid-p"), name, "a")
    outcome = asyncio.run(carry_out(cast("Client", server), choice, lambda _: None, volumes))
    return outcome, server.paths


def test_a_volume_is_asked_for_where_somebody_makes_it() -> None:
    volumes = world(claims=(claim("m", kind="made"),)).cycle.builder.volumes
    outcome, asked = provided(volumes, "m")
    assert outcome.result is Result.DONE
    assert asked == ["PATCH /api/v1/namespaces/default/persistentvolumeclaims/m"]


def test_nothing_is_asked_for_where_the_chosen_volume_has_become_anothers() -> None:
    """With a node chosen for it a claim of which nobody makes the volume would wait for ever."""
    there = world(disks=(disk("d", "a"),), claims=(claim("c"),))
    volumes = there.cycle.builder.volumes
    outcome, asked = provided(volumes, "c")
    assert (outcome.result, asked) == (Result.CONFLICT, [])
