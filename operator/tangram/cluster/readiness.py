"""Whether the API server lets this process do its work now, whatever it has been told before.

Watches that are open go on for minutes after the rights or the credentials behind them have been taken away.
"""

import asyncio

from tangram import errors
from tangram.cluster.lease import Lease
from tangram.cluster.paths import Resource
from tangram.cluster.rest import ONCE, Client
from tangram.settings import LeaseSettings

_PATIENCE = 2
"""Attempts in a row that must fail before something is wrong, other than a refusal."""


class Readiness:
    """Asks for one object of a kind now and then; ``await run()`` until cancelled."""

    def __init__(self, client: Client, kind: Resource, lease: Lease | None) -> None:
        """Ask twice in the time within which ``lease``, or one with the default settings, must be renewed."""
        settings = lease.settings if lease is not None else LeaseSettings()
        self.problem: str | None = None
        """The API server's sentence, or why there is none; None while it answers."""
        self._client, self._path, self._period = client, kind.collection(), settings.renew_deadline / 2
        self._failures = 0

    async def run(self) -> None:
        """Ask until cancelled."""
        while True:
            await self._ask()
            await asyncio.sleep(self._period)

    async def _ask(self) -> None:
        try:
            async with asyncio.timeout(self._period):
                await self._client.request("GET", self._path, params={"limit": "1"}, sending=ONCE)
            self._failures, self.problem = 0, None
        except (errors.TangramError, TimeoutError) as error:
            self._failures += 1
            refused = isinstance(error, errors.ClusterError) and error.status in (401, 403)
            if refused or self._failures >= _PATIENCE:
                self.problem = str(error) or f"the API server did not answer in {self._period:g} s"
