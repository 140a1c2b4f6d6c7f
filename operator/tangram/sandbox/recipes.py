"""What the local cluster is made of: programs, their Go modules, and versions.

Each module has a folder under ``modules/`` with a ``go.mod`` and ``go.sum`` that pin every dependency. A wrapper is
needed because ``go install package@version`` refuses modules that carry ``replace`` lines, as Kubernetes does.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tangram.errors import InvalidInput

MODULES_FOLDER = Path(__file__).parent / "modules"


@dataclass(frozen=True)
class Module:
    """One Go module and the programs that one ``go build`` makes of it."""

    name: str
    version: str
    programs: Mapping[str, str]
    """Program name to Go package path."""
    version_variables: Mapping[str, str]
    """Go string variables set at link time, so that programs report their true version."""
    disk_mib: int
    """Disk that a cold build needs: downloaded modules, compiler cache and the programs, in MiB."""

    @property
    def folder(self) -> Path:
        """The wrapper module shipped with the package."""
        return MODULES_FOLDER / self.name

    @property
    def linker_flags(self) -> str:
        """The value of ``-ldflags``: no symbol tables, true versions."""
        return " ".join(["-s", "-w", *(f"-X {name}={value}" for name, value in self.version_variables.items())])


_KUBERNETES = "k8s.io/component-base/version"

MODULES: tuple[Module, ...] = (
    Module(
        name="kubernetes",
        version="v1.36.3",
        programs={
            name: f"k8s.io/kubernetes/cmd/{name}"
            for name in ("kube-apiserver", "kube-controller-manager", "kubectl", "kube-scheduler", "kubelet")
        },
        version_variables={
            f"{_KUBERNETES}.gitVersion": "v1.36.3",
            f"{_KUBERNETES}.gitMajor": "1",
            f"{_KUBERNETES}.gitMinor": "36",
        },
        disk_mib=4096,
    ),
    Module("etcd", "v3.6.5", {"etcd": "."}, {}, disk_mib=512),
    Module(
        "kwok",
        "v0.8.0",
        {"kwok": "sigs.k8s.io/kwok/cmd/kwok"},
        {"sigs.k8s.io/kwok/pkg/consts.Version": "v0.8.0"},
        disk_mib=1024,
    ),
    Module(
        "helm",
        "v4.3.1",
        {"helm": "helm.sh/helm/v4/cmd/helm"},
        {"helm.sh/helm/v4/internal/version.version": "v4.3.1"},
        disk_mib=1536,
    ),
)

DEFAULT_PROGRAMS = ("kube-apiserver", "kube-controller-manager", "kubectl", "etcd", "kwok", "helm")
OPTIONAL_PROGRAMS = ("kube-scheduler", "kubelet")


def check_optional(programs: Iterable[str]) -> tuple[str, ...]:
    """The programs asked for beyond the default set, each once.

    Raises ``InvalidInput`` for a name that is not an optional program.
    """
    chosen = tuple(dict.fromkeys(programs))
    for program in chosen:
        if program not in OPTIONAL_PROGRAMS:
            raise InvalidInput("sandbox", "--with", program, ", ".join(OPTIONAL_PROGRAMS))
    return chosen


def modules_of(programs: Iterable[str]) -> list[tuple[Module, tuple[str, ...]]]:
    """The modules needed for ``programs``, each with the programs wanted of it, in build order."""
    wanted = set(programs)
    chosen = [(module, tuple(name for name in module.programs if name in wanted)) for module in MODULES]
    return [(module, names) for module, names in chosen if names]
