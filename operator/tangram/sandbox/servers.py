"""The command line of each server, and what it reads: tokens, kubeconfigs, kwok's rules."""

import base64
import json
import secrets
from dataclasses import dataclass
from pathlib import Path

from tangram.sandbox.certificates import Certificates
from tangram.sandbox.places import write_private
from tangram.sandbox.recipes import MODULES_FOLDER

SERVICE_RANGE = "10.0.0.0/16"
REAL_NODE = "real-node"
"""Name of the one node with a kubelet."""
_USERS = {
    "admin": ("sandbox-admin", "system:masters"),
    "kwok": ("sandbox-kwok", "system:masters"),
    "kube-controller-manager": ("system:kube-controller-manager", ""),
    "kube-scheduler": ("system:kube-scheduler", ""),
    "kubelet": (f"system:node:{REAL_NODE}", "system:nodes"),
}


@dataclass(frozen=True)
class Ports:
    """Loopback TCP ports of one sandbox."""

    api: int
    etcd_client: int
    etcd_peer: int


@dataclass(frozen=True)
class Layout:
    """Where things lie in a sandbox's folder."""

    folder: Path

    @property
    def certificates(self) -> Path:
        """Keys and certificates."""
        return self.folder / "certificates"

    @property
    def logs(self) -> Path:
        """One log file per server."""
        return self.folder / "logs"

    @property
    def etcd_data(self) -> Path:
        """The database."""
        return self.folder / "etcd"

    @property
    def token_file(self) -> Path:
        """The tokens that the API server accepts."""
        return self.folder / "tokens.csv"

    @property
    def admin_token(self) -> Path:
        """The administrator's token alone."""
        return self.folder / "admin-token"

    def kubeconfig(self, user: str = "admin") -> Path:
        """The kubeconfig of a user; the administrator's is the one for people."""
        return self.folder / ("kubeconfig" if user == "admin" else f"kubeconfig-{user}")

    @property
    def audit_policy(self) -> Path:
        """What the API server records of the requests to it."""
        return self.folder / "audit-policy.json"

    @property
    def audit_log(self) -> Path:
        """Who asked what of the API server, one JSON object a line."""
        return self.logs / "audit.log"

    @property
    def scheduler_configuration(self) -> Path:
        """What kube-scheduler reads, when it runs."""
        return self.folder / "kube-scheduler.json"


_AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata"}],
}


def write_credentials(layout: Layout, certificates: Certificates, server: str) -> None:
    """Write fresh random tokens and the kubeconfig of each user."""
    tokens = {user: secrets.token_hex(24) for user in _USERS}
    lines = [f'{tokens[user]},{name},{user},"{group}"\n' for user, (name, group) in _USERS.items()]
    write_private(layout.token_file, "".join(lines))
    write_private(layout.admin_token, tokens["admin"])
    authority = base64.b64encode(certificates.authority.read_bytes()).decode()
    for user, token in tokens.items():
        write_private(layout.kubeconfig(user), _kubeconfig(server, authority, user, token))
    configuration = {
        "apiVersion": "kubescheduler.config.k8s.io/v1",
        "kind": "KubeSchedulerConfiguration",
        "clientConnection": {"kubeconfig": str(layout.kubeconfig("kube-scheduler")), "qps": 5000, "burst": 5000},
        "leaderElection": {"leaderElect": False},
    }
    write_private(layout.audit_policy, json.dumps(_AUDIT_POLICY, indent=2))
    write_private(layout.scheduler_configuration, json.dumps(configuration, indent=2))


def _kubeconfig(server: str, authority: str, user: str, token: str) -> str:
    """JSON, which every reader of a YAML kubeconfig takes."""
    name = "tangram-sandbox"
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": name, "cluster": {"server": server, "certificate-authority-data": authority}}],
            "users": [{"name": user, "user": {"token": token}}],
            "contexts": [{"name": name, "context": {"cluster": name, "user": user, "namespace": "default"}}],
            "current-context": name,
        },
        indent=2,
    )


def etcd_arguments(layout: Layout, keys: Certificates, ports: Ports, *, fsync: bool) -> list[str]:
    """etcd: one member, clients and peers only with a certificate of its own authority."""
    client, peer = (f"https://127.0.0.1:{port}" for port in (ports.etcd_client, ports.etcd_peer))
    arguments = [
        "--name=sandbox",
        f"--data-dir={layout.etcd_data}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=sandbox={peer}",
        f"--cert-file={keys.etcd_server}",
        f"--key-file={keys.etcd_server_key}",
        f"--trusted-ca-file={keys.etcd_authority}",
        "--client-cert-auth",
        f"--peer-cert-file={keys.etcd_server}",
        f"--peer-key-file={keys.etcd_server_key}",
        f"--peer-trusted-ca-file={keys.etcd_authority}",
        "--peer-client-cert-auth",
        "--quota-backend-bytes=4294967296",
        "--log-level=warn",
        "--heartbeat-interval=20",  # a lone member waits out one election before it answers: make it short
        "--election-timeout=100",
    ]
    return arguments if fsync else [*arguments, "--unsafe-no-fsync"]


def apiserver_arguments(layout: Layout, keys: Certificates, ports: Ports, *, audit: bool) -> list[str]:
    """kube-apiserver on the loopback.

    The admission plugin that taints new nodes as not ready is off: what takes the taint away is the node lifecycle
    controller, which does not run here because nobody renews the leases of fake nodes.
    """
    recorded = [f"--audit-policy-file={layout.audit_policy}", f"--audit-log-path={layout.audit_log}"] if audit else []
    return [
        *recorded,
        "--bind-address=127.0.0.1",
        "--advertise-address=127.0.0.1",
        "--endpoint-reconciler-type=none",
        f"--secure-port={ports.api}",
        f"--tls-cert-file={keys.server}",
        f"--tls-private-key-file={keys.server_key}",
        f"--client-ca-file={keys.authority}",
        f"--token-auth-file={layout.token_file}",
        f"--etcd-servers=https://127.0.0.1:{ports.etcd_client}",
        f"--etcd-cafile={keys.etcd_authority}",
        f"--etcd-certfile={keys.etcd_client}",
        f"--etcd-keyfile={keys.etcd_client_key}",
        f"--kubelet-client-certificate={keys.kubelet_client}",
        f"--kubelet-client-key={keys.kubelet_client_key}",
        "--kubelet-preferred-address-types=InternalIP",  # the real node's name is in nobody's hosts file
        f"--service-account-key-file={keys.service_account_public}",
        f"--service-account-signing-key-file={keys.service_account_key}",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-cluster-ip-range={SERVICE_RANGE}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--disable-admission-plugins=TaintNodesByCondition",
        "--allow-privileged=true",
        "--delete-collection-workers=8",
        "--profiling=false",
    ]


def controller_manager_arguments(layout: Layout, keys: Certificates) -> list[str]:
    """kube-controller-manager without what would declare fake nodes dead, and without a port of its own."""
    kubeconfig = layout.kubeconfig("kube-controller-manager")
    return [
        f"--kubeconfig={kubeconfig}",
        f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}",
        "--controllers=*,-nodeipam,-node-lifecycle-controller,-taint-eviction-controller",
        "--use-service-account-credentials=true",
        f"--service-account-private-key-file={keys.service_account_key}",
        f"--root-ca-file={keys.authority}",
        f"--cluster-signing-cert-file={keys.authority}",
        f"--cluster-signing-key-file={keys.authority_key}",
        "--leader-elect=false",
        "--kube-api-qps=500",
        "--kube-api-burst=1000",
        "--secure-port=0",
    ]


def kwok_arguments(layout: Layout) -> list[str]:
    """kwok, for the nodes annotated as fake."""
    rules = MODULES_FOLDER / "kwok" / "kwok.yaml"
    return [f"--kubeconfig={layout.kubeconfig('kwok')}", f"--config={rules}", "--v=WARN"]


def scheduler_arguments(layout: Layout) -> list[str]:
    """kube-scheduler with its client's own rate limit out of the way."""
    return [f"--config={layout.scheduler_configuration}", "--secure-port=0"]
