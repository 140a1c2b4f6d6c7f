"""Who may read a path of this process: asked of the API server, as it decides for paths of its own.

The same two questions that kube-rbac-proxy and controller-runtime ask: a TokenReview says whose a token is, a
SubjectAccessReview whether they may ``get`` the path. Grant it with a ClusterRole of ``nonResourceURLs: [/metrics]``.

Strangers can neither make us flood the API server nor keep a known reader out: what is no token of Kubernetes' form is
refused unasked, each address has a budget of questions about tokens that nobody knows, and tokens that were permitted
have a place in memory, and questions, of their own.
"""

import asyncio
import base64
import binascii
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from tangram.cluster.rest import Client, Sending
from tangram.errors import TangramError

_TOKEN_REVIEWS: Final = "/apis/authentication.k8s.io/v1/tokenreviews"  # noqa: S105 - a path
_ACCESS_REVIEWS: Final = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
_REMEMBERED: Final = 60.0
"""Seconds that an answer is good for: so long a permission that was taken away may still work."""
_MOST_REMEMBERED: Final = 256
"""Refusals."""
MOST_PERMITTED: Final = 64
"""Tokens that may read: whoever has that many of them has the right to read anyway."""
_MOST_AT_ONCE: Final = 4
"""Questions under way about tokens that are not known, and as many about those that are."""
_LONGEST_TOKEN: Final = 16384
BUDGET: Final = 6
"""Questions about unknown tokens that one address may cause at once, and in a minute: a reader's token is unknown when
it has been renewed, once an hour or so."""
_REFILL_SECONDS: Final = 60.0
_MOST_ADDRESSES: Final = 1024
_Key = tuple[bytes, str]

OK, UNAUTHORIZED, FORBIDDEN, TOO_MANY, UNAVAILABLE = 200, 401, 403, 429, 503


class Review(msgspec.Struct, frozen=True):
    """The status of either review."""

    authenticated: bool = False
    user: dict[str, Any] = msgspec.field(default_factory=dict)
    allowed: bool = False


class _Answer(msgspec.Struct, frozen=True):
    status: Review = Review()


@dataclass(slots=True)
class _Budget:
    left: float
    at: float


class Reviewer:
    """Answers are remembered by the token's hash for a minute; ``clock`` is a steady clock in seconds."""

    def __init__(self, client: Client, clock: Callable[[], float]) -> None:
        self._client, self._clock = client, clock
        self._permitted: dict[_Key, float] = {}
        """Until when the last yes is good; kept after that, for such a token is no stranger's."""
        self._refused: dict[_Key, tuple[float, int]] = {}
        self._budgets: dict[str, _Budget] = {}
        """By address, those that asked last at the end."""
        self._asking = {True: 0, False: 0}
        """Questions under way, about known tokens and about others."""

    async def status(self, authorization: str, path: str, source: str = "") -> int:
        """The HTTP status for a request with this Authorization header from an address: 200 may read, 401, 403, 429 or
        503."""
        scheme, _, token = authorization.partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or len(token) > _LONGEST_TOKEN or not _is_a_token(token):
            return UNAUTHORIZED
        key, now = (hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest(), path), self._clock()
        known = key in self._permitted
        if known and now < self._permitted[key]:
            return OK
        until, refusal = self._refused.get(key, (0.0, UNAUTHORIZED))
        if now < until:
            return refusal
        if self._asking[known] >= _MOST_AT_ONCE or not (known or self._affords(source)):
            return TOO_MANY
        self._asking[known] += 1
        try:
            async with asyncio.timeout(10):
                answer = await self._ask(token, path)
        except (TangramError, TimeoutError, msgspec.MsgspecError):
            return UNAVAILABLE  # not remembered: the API server may be back in a moment
        finally:
            self._asking[known] -= 1
        self._remember(key, answer)
        return answer

    def _remember(self, key: _Key, answer: int) -> None:
        until = self._clock() + _REMEMBERED
        self._permitted.pop(key, None)
        self._refused.pop(key, None)
        if answer == OK:
            _make_room(self._permitted, MOST_PERMITTED)
            self._permitted[key] = until
        else:
            _make_room(self._refused, _MOST_REMEMBERED)
            self._refused[key] = until, answer

    def _affords(self, source: str) -> bool:
        """Take one question from the address' budget; whether there was one left."""
        now = self._clock()
        budget = self._budgets.pop(source, None) or _Budget(BUDGET, now)
        budget.left = min(BUDGET, budget.left + (now - budget.at) * BUDGET / _REFILL_SECONDS)
        budget.at = now
        _make_room(self._budgets, _MOST_ADDRESSES)
        self._budgets[source] = budget
        if budget.left < 1:
            return False
        budget.left -= 1
        return True

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


def _make_room(memory: dict[Any, Any], most: int) -> None:
    """Forget what has been there longest."""
    while len(memory) >= most:
        memory.pop(next(iter(memory)))


def _is_a_token(text: str) -> bool:
    """Whether it has the form of a JSON Web Token, as service accounts have them: nothing about it is believed."""
    parts = text.split(".")
    return len(parts) == 3 and all(parts) and all(_is_an_object(part) for part in parts[:2])


def _is_an_object(part: str) -> bool:
    """Whether it is a JSON object in the alphabet of URLs."""
    try:
        decoded = base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True)
        return isinstance(msgspec.json.decode(decoded), dict)
    except (ValueError, binascii.Error, msgspec.MsgspecError):
        return False
