"""Who may read a path of this process: asked of the API server, as it decides for paths of its own.

The same two questions that kube-rbac-proxy and controller-runtime ask: a TokenReview says whose a token is, a
SubjectAccessReview whether they may ``get`` the path. Grant it with a ClusterRole of ``nonResourceURLs: [/metrics]``.
"""

import asyncio
import hashlib
from collections.abc import Callable
from typing import Any, Final

import msgspec

from tangram.cluster.rest import Client, Sending
from tangram.errors import TangramError

_TOKEN_REVIEWS: Final = "/apis/authentication.k8s.io/v1/tokenreviews"  # noqa: S105 - a path
_ACCESS_REVIEWS: Final = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
_REMEMBERED: Final = 60.0
"""Seconds that an answer is good for: so long a permission that was taken away may still work."""
_MOST_REMEMBERED: Final = 256
_MOST_AT_ONCE: Final = 4
_LONGEST_TOKEN: Final = 16384

OK, UNAUTHORIZED, FORBIDDEN, TOO_MANY, UNAVAILABLE = 200, 401, 403, 429, 503


class Review(msgspec.Struct, frozen=True):
    """The status of either review."""

    authenticated: bool = False
    user: dict[str, Any] = msgspec.field(default_factory=dict)
    allowed: bool = False


class _Answer(msgspec.Struct, frozen=True):
    status: Review = Review()


class Reviewer:
    """Answers are remembered by the token's hash for a minute; ``clock`` is a steady clock in seconds.

    Few questions are under way at once: strangers who send tokens of their own cannot make us flood the API server.
    """

    def __init__(self, client: Client, clock: Callable[[], float]) -> None:
        self._client, self._clock = client, clock
        self._answers: dict[tuple[bytes, str], tuple[float, int]] = {}
        self._asking = 0

    async def status(self, authorization: str, path: str) -> int:
        """The HTTP status for a request with this Authorization header: 200 may read, 401, 403, 429 or 503."""
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token.strip() or len(token) > _LONGEST_TOKEN:
            return UNAUTHORIZED
        key = hashlib.sha256(token.strip().encode("utf-8", "surrogateescape")).digest(), path
        until, known = self._answers.get(key, (0.0, UNAUTHORIZED))
        if self._clock() < until:
            return known
        if self._asking >= _MOST_AT_ONCE:
            return TOO_MANY
        self._asking += 1
        try:
            async with asyncio.timeout(10):
                answer = await self._ask(token.strip(), path)
        except (TangramError, TimeoutError, msgspec.MsgspecError):
            return UNAVAILABLE  # not remembered: the API server may be back in a moment
        finally:
            self._asking -= 1
        if len(self._answers) >= _MOST_REMEMBERED:
            self._answers.pop(next(iter(self._answers)))
        self._answers[key] = self._clock() + _REMEMBERED, answer
        return answer

    async def _ask(self, token: str, path: str) -> int:
        who = await self._review(_TOKEN_REVIEWS, "authentication.k8s.io/v1", "TokenReview", {"token": token})
        if not who.authenticated:
            return UNAUTHORIZED
        user = who.user
        spec = {
            "user": user.get("username", ""),
            "uid": user.get("uid", ""),
            "groups": user.get("groups", []),
            "extra": user.get("extra", {}),
            "nonResourceAttributes": {"path": path, "verb": "get"},
        }
        may = await self._review(_ACCESS_REVIEWS, "authorization.k8s.io/v1", "SubjectAccessReview", spec)
        return OK if may.allowed else FORBIDDEN

    async def _review(self, path: str, version: str, kind: str, spec: dict[str, Any]) -> Review:
        body = msgspec.json.encode({"apiVersion": version, "kind": kind, "spec": spec})
        # A review stores nothing, so that asking again can do no harm.
        answer = await self._client.request("POST", path, body=body, sending=Sending(guarded=True, attempts=2))
        return msgspec.json.decode(answer, type=_Answer).status
