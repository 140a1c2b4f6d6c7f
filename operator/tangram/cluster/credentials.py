"""Ways to say who we are: fixed headers, token files that rotate, programs, identity providers."""

import base64
import os
import ssl
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from tangram import errors

_EARLY = 30.0
"""Seconds before its expiry at which a credential is fetched anew, so that none expires on its way."""


@dataclass(frozen=True, slots=True)
class Authorization:
    """A value of the Authorization header (None: send none) and the seconds for which it may be kept."""

    header: str | None = field(repr=False)
    valid_for: float = float("inf")


class Credentials(Protocol):
    """Gives the Authorization header; asked when the last answer is over its time or was refused with 401."""

    async def authorization(self) -> Authorization:
        """Return a header that is valid now. Raises NotReachable when its source does not work."""
        ...


def bearer(token: str) -> str:
    """The header for a token."""
    return f"Bearer {token}"


def basic(username: str, password: str) -> str:
    """The header for a name and a password."""
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


@dataclass(frozen=True, slots=True)
class StaticHeader:
    """A header that never changes, or none (client certificates, anonymous)."""

    header: str | None = field(default=None, repr=False)

    async def authorization(self) -> Authorization:
        """Return the header."""
        return Authorization(self.header)


@dataclass(frozen=True, slots=True)
class TokenFile:
    """A file with a token that somebody rotates: a pod's projected token, or ``tokenFile`` of a kubeconfig."""

    file: Path
    refresh: float = 60.0
    """Seconds after which the file is read again."""

    async def authorization(self) -> Authorization:
        """Read the file."""
        try:
            # A small local file: a thread would cost more than the read.
            token = self.file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise errors.NotReachable(f"token file {self.file} cannot be read: {error}") from error
        if not token:
            raise errors.NotReachable(f"token file {self.file} is empty")
        return Authorization(bearer(token), self.refresh)


@dataclass(frozen=True, slots=True)
class ExecPlugin:
    """A program that prints an ExecCredential (``exec`` in a kubeconfig): cloud logins mostly."""

    where: str
    config: Mapping[str, Any] = field(repr=False)
    tls: ssl.SSLContext | None = None
    """Gets the client certificate when the program answers with one."""

    async def authorization(self) -> Authorization:
        """Run the program."""
        from kubernetes.aio.config import ConfigException
        from kubernetes.aio.config.exec_provider import ExecProvider
        from kubernetes.aio.config.kube_config import ConfigNode

        command = self.config.get("command", "")
        try:
            status = await ExecProvider(ConfigNode("exec", dict(self.config))).run()
        except OSError as error:
            hint = f" {self.config['installHint']}" if self.config.get("installHint") else ""
            raise errors.NotReachable(f"{self.where}: {command}: {error.strerror}.{hint}") from error
        except ConfigException as error:
            raise errors.NotReachable(f"{self.where}: {command}: {' '.join(str(error).split())}") from error
        certificate, key, token = (status.get(f) for f in ("clientCertificateData", "clientKeyData", "token"))
        if self.tls is not None and certificate and key:
            load_certificate(self.tls, certificate.encode(), key.encode())
        elif not token:
            raise errors.NotReachable(f"{self.where}: {command} gave neither a token nor a client certificate and key")
        return Authorization(bearer(token) if token else None, _seconds_until(status.get("expirationTimestamp")))


@dataclass(frozen=True, slots=True)
class IdentityProvider:
    """``auth-provider`` of a kubeconfig (oidc, gcp) by the ``kubernetes`` package; no file is written back."""

    where: str
    provider: Mapping[str, Any] = field(repr=False)
    refresh: float = 60.0

    async def authorization(self) -> Authorization:
        """Ask the provider for a token."""
        from kubernetes.aio.client import Configuration
        from kubernetes.aio.config.kube_config import KubeConfigLoader

        only = {
            "current-context": "x",
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": {"server": "http://localhost"}}],
            "users": [{"name": "u", "user": {"auth-provider": dict(self.provider)}}],
        }
        configuration = Configuration()
        try:
            await KubeConfigLoader(only).load_and_set(configuration)
        except Exception as error:  # whatever its library raises becomes the user's one line
            raise errors.NotReachable(f"{self.where}: {' '.join(str(error).split())}") from error
        header = configuration.api_key.get("BearerToken")
        if not header:
            raise errors.NotReachable(f"{self.where}: the provider {self.provider.get('name')!r} gave no token")
        return Authorization(str(header), self.refresh)


def load_certificate(tls: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    """Put a client certificate and its key, both PEM, into ``tls``. Raises ssl.SSLError when they do not fit."""
    # The ssl module reads them from files only; the folder is ours alone and gone right after.
    with tempfile.TemporaryDirectory(prefix="tangram-") as folder:
        files = (Path(folder) / "certificate", Path(folder) / "key")
        for file, content in zip(files, (certificate, key), strict=True):
            handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "wb") as out:
                out.write(content)
        tls.load_cert_chain(*files)


def _seconds_until(timestamp: str | None) -> float:
    if not timestamp:
        return float("inf")
    try:
        expiry = datetime.fromisoformat(timestamp)
    except ValueError:
        return 0.0
    left = (expiry - datetime.now(UTC)).total_seconds()
    # A credential that lives for less than twice the margin is still good for half its life.
    return max(0.0, left - _EARLY, left / 2 if left < 2 * _EARLY else 0.0)
