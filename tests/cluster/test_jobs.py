"""What Jobs have done is followed for as long as they are there, whatever happens to their pods."""

import asyncio
import contextlib
from typing import Any

from tests.cluster.fake import HANG, FakeApi, bookmark, event, eventually, stream

from tangram.cluster.rest import Client
from tangram.scheduler.jobs import FinishedWork
from tangram.snapshot.build import Builder

JOBS = "/apis/batch/v1/jobs"


def job(name: str, version: int, **status: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "default", "uid": f"uid-{name}", "resourceVersion": str(version)}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": {}, "status": status}


async def test_a_job_counts_what_its_status_says_until_it_is_gone(api: FakeApi, client: Client) -> None:
    said: list[tuple[str, int]] = []

    class Heard(Builder):
        def set_completed(self, owner: str, pods: int) -> None:
            said.append((owner, pods))

    later = [event("MODIFIED", job("a", 11, succeeded=4)), event("DELETED", job("a", 12, succeeded=4))]
    api.on("GET", JOBS, stream(event("ADDED", job("a", 3)), bookmark(10, end=True), 0.05, *later, HANG))
    running = asyncio.create_task(FinishedWork(client, Heard(), lambda: None).jobs.run())
    await eventually(lambda: len(said) >= 3)
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    assert said == [("uid-a", 0), ("uid-a", 4), ("uid-a", 0)]
