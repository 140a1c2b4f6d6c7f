"""Where the API server is and how to prove who we are: kubeconfig files, and the service account of a pod.

Files are read and merged as kubectl does. Credentials that need another program or an identity provider go through
the ``kubernetes`` package, which is imported only then.
"""

import base64
import binascii
import os
import ssl
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec

from tangram import errors
from tangram.cluster import credentials
from tangram.cluster.credentials import Credentials

_SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


@dataclass(frozen=True, slots=True)
class Access:
    """A way to an API server."""

    server: str
    """Root of the API: scheme, host, port and prefix, without a slash at the end."""
    credentials: Credentials
    tls: ssl.SSLContext | None = None
    """None for a plain http server."""
    tls_server_name: str | None = None
    """Name expected in the server's certificate where it differs from the host."""
    proxy: str | None = None
    namespace: str = "default"
    """Namespace of the context: what ``-n`` means when it is left out."""
    impersonation: Mapping[str, str] = field(default_factory=dict)
    """Headers by which a privileged user acts as another."""


class _Entry(msgspec.Struct, frozen=True, rename="kebab"):
    """Base of what a kubeconfig says."""


_E = TypeVar("_E", bound=_Entry)


class _Cluster(_Entry, frozen=True):
    server: str
    certificate_authority: str = ""
    certificate_authority_data: str = ""
    insecure_skip_tls_verify: bool = False
    tls_server_name: str = ""
    proxy_url: str = ""


class _User(_Entry, frozen=True):
    client_certificate: str = ""
    client_certificate_data: str = ""
    client_key: str = ""
    client_key_data: str = ""
    token: str = ""
    token_file: str = msgspec.field(default="", name="tokenFile")
    username: str = ""
    password: str = ""
    impersonate: str = msgspec.field(default="", name="as")
    as_uid: str = ""
    as_groups: tuple[str, ...] = ()
    as_user_extra: dict[str, Any] = {}
    exec: dict[str, Any] | None = None
    auth_provider: dict[str, Any] | None = None


class _Context(_Entry, frozen=True):
    cluster: str
    user: str = ""
    namespace: str = "default"


@dataclass(frozen=True, slots=True)
class _Found:
    """One named entry and the file that it comes from: relative paths in it start there."""

    file: Path
    value: dict[str, Any]

    def path(self, written: str) -> Path:
        return self.file.parent / Path(written).expanduser()


def load_access(kubeconfig: Path | None = None, context: str | None = None, *, token_refresh: float = 60.0) -> Access:
    """Find the API server and our credentials.

    The order: ``kubeconfig``, $KUBECONFIG (several files), ~/.kube/config, the service account of this pod.
    ``context`` chooses a context of the files, by default their current one. ``token_refresh`` is the age in seconds
    at which token files are read again. Raises NotReachable when nothing says where a server is or a file cannot be
    read, InvalidInput when a file says something unusable; both in one line.
    """
    files = _files(kubeconfig)
    if files:
        return _from_files(files, context, token_refresh)
    inside = _from_service_account(token_refresh)
    if inside is None:
        raise errors.NotReachable(
            "no cluster is known: $KUBECONFIG is not set, ~/.kube/config does not exist and this is not a pod; "
            "give a kubeconfig, for example with --kubeconfig"
        )
    if context is not None:
        raise errors.InvalidInput("the pod's service account", "context", context, "none, as there is no kubeconfig")
    return inside


def _files(kubeconfig: Path | None) -> tuple[Path, ...]:
    if kubeconfig is not None:
        if not kubeconfig.is_file():
            raise errors.NotReachable(f"kubeconfig {kubeconfig}: no such file")
        return (kubeconfig,)
    listed = [Path(part).expanduser() for part in os.environ.get("KUBECONFIG", "").split(os.pathsep) if part]
    if listed:
        # kubectl skips files of the list that do not exist; when none does, nothing can work.
        found = tuple(path for path in listed if path.is_file())
        if not found:
            raise errors.NotReachable(f"$KUBECONFIG: no such file: {os.pathsep.join(map(str, listed))}")
        return found
    usual = Path("~/.kube/config").expanduser()
    return (usual,) if usual.is_file() else ()


def _from_service_account(token_refresh: float) -> Access | None:
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    token, authority = _SERVICE_ACCOUNT / "token", _SERVICE_ACCOUNT / "ca.crt"
    if not host or not token.is_file():
        return None
    namespace = _SERVICE_ACCOUNT / "namespace"
    return Access(
        server=f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}",
        credentials=credentials.TokenFile(token, token_refresh),
        tls=_tls(_read(authority), verify=True),
        namespace=_read(namespace).decode().strip() if namespace.is_file() else "default",
    )


def _from_files(files: tuple[Path, ...], chosen: str | None, token_refresh: float) -> Access:
    where = "kubeconfig " + os.pathsep.join(map(str, files))
    merged, current = _merge(files)
    name = chosen or current
    if not name:
        raise errors.InvalidInput(where, "current-context", "", _names(merged["contexts"]))
    context = _convert(where, f"context {name}", _find(where, "context", merged["contexts"], name), _Context)
    cluster_entry = _find(where, "cluster", merged["clusters"], context.cluster)
    cluster = _convert(where, f"cluster {context.cluster}", cluster_entry, _Cluster)
    user_entry = _find(where, "user", merged["users"], context.user) if context.user else _Found(files[0], {})
    user = _convert(where, f"user {context.user}", user_entry, _User)
    address = urlsplit(cluster.server)
    if address.scheme not in ("https", "http") or not address.hostname:
        raise errors.InvalidInput(where, f"cluster {context.cluster}: server", cluster.server, "https://HOST[:PORT]")
    tls = None
    if address.scheme == "https":
        tls = _cluster_tls(where, cluster_entry, cluster)
        _load_client_certificate(where, tls, user_entry, user)
    return Access(
        server=cluster.server.rstrip("/"),
        credentials=_credentials(f"{where}: user {context.user}", user_entry, user, tls, token_refresh),
        tls=tls,
        tls_server_name=cluster.tls_server_name or None,
        proxy=_proxy(where, cluster.proxy_url, address.scheme, address.hostname),
        namespace=context.namespace or "default",
        impersonation=_impersonation(f"{where}: user {context.user}", user),
    )


def _merge(files: tuple[Path, ...]) -> tuple[dict[str, dict[str, _Found]], str]:
    """All named entries and the current context; as with kubectl the first file that says something wins."""
    merged: dict[str, dict[str, _Found]] = {"clusters": {}, "contexts": {}, "users": {}}
    current = ""
    for file in files:
        content = _read_yaml(file)
        for section, entries in merged.items():
            for item in content.get(section) or ():
                if not isinstance(item, dict) or not isinstance(item.get("name"), str):
                    raise errors.InvalidInput(f"kubeconfig {file}", section, item, "a list of objects with a name")
                value = item.get(section[:-1]) or {}
                if not isinstance(value, dict):
                    raise errors.InvalidInput(f"kubeconfig {file}", f"{section}: {item['name']}", value, "an object")
                entries.setdefault(item["name"], _Found(file, value))
        current = current or str(content.get("current-context") or "")
    return merged, current


def _read_yaml(file: Path) -> dict[str, Any]:
    import yaml  # here: most processes run in a pod and never need it

    try:
        content = yaml.safe_load(_read(file))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        text = " ".join(str(error).split())
        raise errors.InvalidInput(f"kubeconfig {file}", "content", text, "YAML") from None
    if not isinstance(content, dict):
        raise errors.InvalidInput(f"kubeconfig {file}", "content", content, "a kubeconfig object")
    return content


def _find(where: str, kind: str, entries: dict[str, _Found], name: str) -> _Found:
    if name not in entries:
        raise errors.InvalidInput(where, kind, name, _names(entries))
    return entries[name]


def _names(entries: dict[str, _Found]) -> str:
    return ", ".join(sorted(entries)) or "none is defined"


def _convert(where: str, what: str, found: _Found, kind: type[_E]) -> _E:
    try:
        return msgspec.convert(found.value, kind)
    except msgspec.ValidationError as error:
        # Names of the fields only: values may be secrets.
        raise errors.InvalidInput(where, what, sorted(map(str, found.value)), str(error)) from None


def _cluster_tls(where: str, entry: _Found, cluster: _Cluster) -> ssl.SSLContext:
    authority = _data_or_file(
        where, entry, "certificate-authority", cluster.certificate_authority_data, cluster.certificate_authority
    )
    try:
        return _tls(authority, verify=not cluster.insecure_skip_tls_verify)
    except ssl.SSLError as error:
        raise errors.InvalidInput(where, "certificate-authority", str(error), "certificates in PEM form") from None


def _tls(authority: bytes | None, *, verify: bool) -> ssl.SSLContext:
    # latin-1 maps any byte, and the certificates themselves are ASCII
    context = ssl.create_default_context(cadata=authority.decode("latin-1") if authority is not None else None)
    # Newer Pythons refuse certificate authorities that Kubernetes' own Go clients accept.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _load_client_certificate(where: str, tls: ssl.SSLContext, entry: _Found, user: _User) -> None:
    certificate = _data_or_file(
        where, entry, "client-certificate", user.client_certificate_data, user.client_certificate
    )
    key = _data_or_file(where, entry, "client-key", user.client_key_data, user.client_key)
    if certificate is None and key is None:
        return
    if certificate is None or key is None:
        missing = "client-key" if key is None else "client-certificate"
        raise errors.InvalidInput(where, missing, "", "a client certificate and its key, both")
    try:
        credentials.load_certificate(tls, certificate, key)
    except ssl.SSLError as error:
        raise errors.InvalidInput(where, "client-certificate", str(error), "a certificate and its key, PEM") from None


def _credentials(
    where: str, entry: _Found, user: _User, tls: ssl.SSLContext | None, token_refresh: float
) -> Credentials:
    if user.exec is not None:
        return credentials.ExecPlugin(where, _exec_config(where, entry, user.exec), tls)
    if user.auth_provider is not None:
        return credentials.IdentityProvider(where, user.auth_provider, token_refresh)
    # kubectl too prefers the file when both are there: it is the one that rotates
    if user.token_file:
        return credentials.TokenFile(entry.path(user.token_file), token_refresh)
    if user.token:
        return credentials.StaticHeader(credentials.bearer(user.token))
    if user.username:
        return credentials.StaticHeader(credentials.basic(user.username, user.password))
    return credentials.StaticHeader()


def _exec_config(where: str, entry: _Found, config: dict[str, Any]) -> dict[str, Any]:
    command = config.get("command")
    if not command or not isinstance(command, str):
        raise errors.InvalidInput(where, "exec: command", command, "the name of a program")
    # Bare names are looked up in $PATH, names with a slash start at the kubeconfig's folder.
    return {**config, "command": str(entry.path(command)) if "/" in command else command}


def _impersonation(where: str, user: _User) -> dict[str, str]:
    if user.as_uid or user.as_user_extra or len(user.as_groups) > 1:
        # Leaving them out would silently act with other rights than the file says.
        raise errors.InvalidInput(where, "as-uid, as-user-extra, as-groups", "set", "'as' with at most one group")
    headers = {"Impersonate-User": user.impersonate} if user.impersonate else {}
    if user.as_groups:
        headers["Impersonate-Group"] = user.as_groups[0]
    return headers


def _proxy(where: str, written: str, scheme: str, host: str) -> str | None:
    """The cluster's own proxy, else the environment's (HTTPS_PROXY, NO_PROXY), resolved once."""
    if written:
        if urlsplit(written).scheme not in ("http", "https"):
            raise errors.InvalidInput(where, "proxy-url", written, "http://HOST:PORT or https://HOST:PORT")
        return written
    if urllib.request.proxy_bypass(host):
        return None
    return urllib.request.getproxies().get(scheme)


def _data_or_file(where: str, entry: _Found, name: str, data: str, file: str) -> bytes | None:
    """Content of one of the pairs NAME-data (base64, wins) and NAME (a file); None when neither is written."""
    if data:
        try:
            return base64.b64decode(data, validate=True)
        except binascii.Error as error:
            raise errors.InvalidInput(where, f"{name}-data", f"({error})", "base64 text") from None
    return _read(entry.path(file)) if file else None


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise errors.NotReachable(f"{file} cannot be read: {error.strerror}") from error
