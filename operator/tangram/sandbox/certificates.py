"""Keys and certificates of one sandbox: its own authorities, made anew for each, worth nothing elsewhere.

etcd has an authority of its own, so that a certificate that may talk to the API server cannot open its database.
"""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tangram.sandbox.places import write_private

_LIFETIME = timedelta(days=365)
_CLOCK_SKEW = timedelta(hours=1)
_SERVER_NAMES = ("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc")
_SERVER_ADDRESSES = ("127.0.0.1", "::1", "10.0.0.1")


@dataclass(frozen=True)
class Certificates:
    """Paths of the PEM files, all of mode 0600; each ``*_key`` is the private key of the certificate beside it."""

    authority: Path
    authority_key: Path
    server: Path
    server_key: Path
    kubelet_client: Path
    kubelet_client_key: Path
    service_account_key: Path
    service_account_public: Path
    etcd_authority: Path
    etcd_server: Path
    etcd_server_key: Path
    etcd_client: Path
    etcd_client_key: Path


def certificate_paths(folder: Path) -> Certificates:
    """Where the files of a sandbox lie in ``folder``."""
    return Certificates(
        authority=folder / "ca.crt",
        authority_key=folder / "ca.key",
        server=folder / "server.crt",
        server_key=folder / "server.key",
        kubelet_client=folder / "kubelet-client.crt",
        kubelet_client_key=folder / "kubelet-client.key",
        service_account_key=folder / "service-account.key",
        service_account_public=folder / "service-account.pub",
        etcd_authority=folder / "etcd-ca.crt",
        etcd_server=folder / "etcd-server.crt",
        etcd_server_key=folder / "etcd-server.key",
        etcd_client=folder / "etcd-client.crt",
        etcd_client_key=folder / "etcd-client.key",
    )


def make_certificates(folder: Path) -> Certificates:
    """Write fresh keys and certificates into ``folder`` and say where."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    paths = certificate_paths(folder)
    cluster = _Authority.make("tangram sandbox")
    write_private(paths.authority, cluster.certificate_pem)
    write_private(paths.authority_key, _private_pem(cluster.key))
    cluster.issue(paths.server, paths.server_key, "kube-apiserver")
    cluster.issue(paths.kubelet_client, paths.kubelet_client_key, "kube-apiserver-kubelet-client", ("system:masters",))
    etcd = _Authority.make("tangram sandbox etcd")
    write_private(paths.etcd_authority, etcd.certificate_pem)
    etcd.issue(paths.etcd_server, paths.etcd_server_key, "etcd")
    etcd.issue(paths.etcd_client, paths.etcd_client_key, "kube-apiserver")
    signer = ec.generate_private_key(ec.SECP256R1())
    write_private(paths.service_account_key, _private_pem(signer))
    public = serialization.PublicFormat.SubjectPublicKeyInfo
    write_private(paths.service_account_public, signer.public_key().public_bytes(serialization.Encoding.PEM, public))
    return paths


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _subject(name: str, groups: Sequence[str] = ()) -> x509.Name:
    """Kubernetes reads the common name as the user and each organisation as a group."""
    organisations = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
    return x509.Name([*organisations, x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _builder(subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + _LIFETIME)
    )


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


@dataclass(frozen=True)
class _Authority:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def make(cls, name: str) -> "_Authority":
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _subject(name)
        certificate = (
            _builder(subject, key)
            .issuer_name(subject)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(authority=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        return cls(certificate, key)

    @property
    def certificate_pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def issue(self, certificate: Path, key_file: Path, name: str, groups: Sequence[str] = ()) -> None:
        """Write a certificate good for serving on the loopback and for being a client."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = [x509.DNSName(dns) for dns in _SERVER_NAMES]
        addresses = [x509.IPAddress(ipaddress.ip_address(address)) for address in _SERVER_ADDRESSES]
        uses = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        signed = (
            _builder(_subject(name, groups), key)
            .issuer_name(self.certificate.subject)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(authority=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
            .add_extension(x509.SubjectAlternativeName([*names, *addresses]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        write_private(certificate, signed.public_bytes(serialization.Encoding.PEM))
        write_private(key_file, _private_pem(key))
