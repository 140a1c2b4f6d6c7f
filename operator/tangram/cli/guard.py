"""Metrics for those only who may read them: a token that the API server knows, over TLS."""

import asyncio
import os
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Self

from tangram.errors import NotReachable

_RENEWED_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Guard:
    """``permit`` turns an Authorization header, a path and the address of who asks into an HTTP status; ``tls`` keeps
    the token to the two."""

    permit: Callable[[str, str, str], Awaitable[int]]
    tls: ssl.SSLContext


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a port shows to those who connect; ``folder`` is where it is renewed, None for one of our own."""

    context: ssl.SSLContext
    folder: Path | None

    @classmethod
    def load(cls, folder: Path | None, name: str) -> Self:
        """``tls.crt`` and ``tls.key`` of a folder, or a certificate of our own that is made now.

        Nobody can check the latter: readers have to skip verification, as with controller-runtime's. It keeps tokens
        from those who listen and not from those who can stand in between. Raises NotReachable when the files cannot be
        used.
        """
        if folder is not None:
            return cls(_context(folder), folder)
        with tempfile.TemporaryDirectory() as made:
            # In a process of its own: the library that makes certificates would stay in memory, 11 MiB on every node.
            code = "import sys; from tangram.cli.guard import write_self_signed as w; w(sys.argv[1], sys.argv[2])"
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
            subprocess.run([sys.executable, "-c", code, made, name], check=False, env=environment)
            return cls(_context(Path(made)), None)

    async def keep(self) -> None:
        """Take over what the folder holds, now and then, until cancelled; raises NotReachable when it cannot be."""
        while True:
            await asyncio.sleep(_RENEWED_SECONDS)
            self.renew()

    def renew(self) -> None:
        """Show what the folder holds now; raises NotReachable, and shows what it did, when that cannot be used."""
        if self.folder is not None:
            _context(self.folder)  # tried apart: a certificate without its key would spoil the one in use
            _load(self.context, self.folder)


def _context(folder: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _load(context, folder)
    return context


def _load(context: ssl.SSLContext, folder: Path) -> None:
    try:
        context.load_cert_chain(folder / "tls.crt", folder / "tls.key")
    except OSError as error:  # ssl.SSLError is one
        raise NotReachable(f"{folder}: tls.crt and tls.key cannot be used: {error.strerror or error}") from None


def write_self_signed(folder: str, name: str) -> None:
    """Write ``tls.crt`` and ``tls.key``, good for ten years and signed by nobody else."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name[:64])])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=3650))
        .sign(key, hashes.SHA256())
    )
    (Path(folder) / "tls.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (Path(folder) / "tls.key").touch(0o600)
    (Path(folder) / "tls.key").write_bytes(private)
