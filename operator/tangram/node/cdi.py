"""Specifications of the Container Device Interface (CDI): those that are on the node, and one of our own.

A runtime that knows CDI puts into a container what a specification says of a device's name. NVIDIA's toolkit writes
such files, and under which kind depends on who runs it: ``nvidia.com/gpu`` by hand or by ``nvidia-cdi-refresh``,
``k8s.device-plugin.nvidia.com/gpu`` by NVIDIA's device plugin, ``management.nvidia.com/gpu`` by the GPU Operator. None
of them is sure to name the GPUs that are given out here. So what they say of libraries and hooks is taken over into a
kind of our own: a device for each GPU, and one for each part that is given out, with the variables that go with it. CDI
applies those after all variables of a pod, so no ConfigMap of a tenant replaces them
(github.com/cncf-tags/container-device-interface, SPEC.md).
"""

import contextlib
import json
import logging
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tangram.api.names import GROUP
from tangram.errors import NotReachable
from tangram.node.gpus import Gpu

_log = logging.getLogger(__name__)

KIND: Final = f"{GROUP}/gpu"
PART_KIND: Final = f"{GROUP}/part"
FOLDERS: Final = (Path("/etc/cdi"), Path("/var/run/cdi"))
"""Where runtimes look, the second after the first; ours are written to the last."""
_VERSION: Final = "0.5.0"
_SOURCES: Final = ("nvidia.com/gpu", "k8s.device-plugin.nvidia.com/gpu", "management.nvidia.com/gpu")
"""Kinds of NVIDIA's, the one first that says most of single GPUs."""
_OF_ONE_GPU = re.compile(r"/dev/(nvidia\d+|dri/.*|nvidia-caps/.*)")
_VISIBLE: Final = "NVIDIA_VISIBLE_DEVICES"
"""With ``void`` NVIDIA's own runtime, where it runs as well, adds nothing."""
_MPS_PROGRAMS: Final = "nvidia-cuda-mps-"
_LARGEST: Final = 4 << 20
_KEPT_SECONDS: Final = 600.0
_EDITS: Final = ("env", "deviceNodes", "hooks", "mounts")
Edits = dict[str, list[Any]]


@dataclass(frozen=True, slots=True)
class Found:
    """A specification of NVIDIA's that is on the node."""

    path: Path
    kind: str
    common: Edits
    """What goes with every device."""
    devices: Mapping[str, Edits]


def signature(folders: Iterable[Path] = FOLDERS) -> tuple[tuple[str, int, int], ...]:
    """What changes when a specification does that is not ours: path, time of change, size."""
    found = []
    for path in (path for folder in folders for path in sorted(_files(folder))):
        with contextlib.suppress(OSError):
            status = path.stat()
            found.append((str(path), status.st_mtime_ns, status.st_size))
    return tuple(found)


def find(folders: Iterable[Path] = FOLDERS) -> Found | None:
    """The specification of NVIDIA's that says most; None when there is none, or none that can be read."""
    found = [one for folder in folders for path in sorted(_files(folder)) if (one := _read(path)) is not None]
    known = [one for one in found if one.kind in _SOURCES]
    return min(known, key=lambda one: _SOURCES.index(one.kind), default=None)


def specification(gpus: Sequence[Gpu], source: Found) -> dict[str, Any]:
    """Our own: a device for each GPU or slice, by its uuid.

    Raises NotReachable when the source does not say how a GPU gets into a container.
    """
    whole = next(iter(source.devices.values()), {}) if source.kind == _SOURCES[-1] else {}
    common: Edits = {}
    for name in _EDITS:
        listed = [*source.common.get(name, ()), *whole.get(name, ())]
        common[name] = [one for one in listed if not _is_of_one_gpu(one) and not _is_mps_program(one)]
    common["env"] = [one for one in common["env"] if not str(one).startswith(f"{_VISIBLE}=")] + [f"{_VISIBLE}=void"]
    if not common["mounts"] and not common["hooks"]:
        raise NotReachable(f"{source.path} names no library of the driver")
    devices = [{"name": gpu.uuid, "containerEdits": _plain(_edits_of(gpu, source, whole))} for gpu in gpus]
    return {"cdiVersion": _VERSION, "kind": KIND, "containerEdits": _plain(common), "devices": devices}


def part_name(uuid: str, share: int, memory_mib: int) -> str:
    """Name of the device that carries the limits of a part of a GPU."""
    return f"{uuid}_{share}_{memory_mib}"


def part(name: str, environment: Mapping[str, str]) -> dict[str, Any]:
    """The specification of one part of a GPU: its variables, and no device."""
    variables = [f"{key}={value}" for key, value in environment.items()]
    device = {"name": name, "containerEdits": {"env": variables}}
    return {"cdiVersion": _VERSION, "kind": PART_KIND, "devices": [device]}


class Folder:
    """Our specifications on the node. What is written is whole, and written only when it says something new."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder, self._clock = folder, clock
        self._written: dict[str, str] = {}
        self._unused: dict[str, float] = {}
        """Name of a file -> since when nobody has needed it."""

    def write(self, name: str, content: Mapping[str, Any]) -> None:
        """Write one specification; ``name`` is a part of the file's. Raises NotReachable."""
        text = json.dumps(content, indent=1, sort_keys=True)
        path = self._folder / f"{_PREFIX}{name}.json"
        self._unused.pop(path.name, None)
        if self._written.get(name) == text and path.exists():
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            fresh = path.with_name(f".{path.name}.new")  # runtimes read *.json and *.yaml
            fresh.write_text(text)
            fresh.chmod(0o644)
            fresh.replace(path)
        except OSError as error:
            raise NotReachable(f"{path} cannot be written: {error.strerror}") from None
        self._written[name] = text

    def keep(self, names: Iterable[str]) -> None:
        """Remove those of ours that have been none of these for a while: what was written a moment ago is not among the
        holdings yet, and a container that starts again is given the same names."""
        kept, now = {f"{_PREFIX}{name}.json" for name in names}, self._clock()
        there = {path.name for path in self._folder.glob(f"{_PREFIX}*.json")}
        self._unused = {name: self._unused.get(name, now) for name in there - kept}
        for name in [name for name, since in self._unused.items() if now - since > _KEPT_SECONDS]:
            (self._folder / name).unlink(missing_ok=True)
            self._written.pop(name[len(_PREFIX) : -len(".json")], None)


_PREFIX: Final = f"{GROUP}-"


def _files(folder: Path) -> list[Path]:
    try:
        found = [path for path in folder.iterdir() if path.suffix in (".json", ".yaml", ".yml") and path.is_file()]
    except OSError:
        return []
    return [path for path in found if not path.name.startswith(_PREFIX)]


def _read(path: Path) -> Found | None:
    try:
        if path.stat().st_size > _LARGEST:
            return None
        text = path.read_text("utf-8")
        content = json.loads(text) if path.suffix == ".json" else _yaml(text)
        devices = {str(one["name"]): _edits(one["containerEdits"]) for one in content.get("devices") or ()}
        return Found(path, str(content["kind"]), _edits(content.get("containerEdits") or {}), devices)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        _log.warning("%s is no CDI specification: %s: %s", path, type(error).__name__, error)
        return None


def _yaml(text: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None


def _edits(content: Mapping[str, Any]) -> Edits:
    return {name: list(content.get(name) or ()) for name in _EDITS}


def _edits_of(gpu: Gpu, source: Found, whole: Mapping[str, list[Any]]) -> Edits:
    """How one GPU or slice gets into a container: as the source has it by uuid, else its device file."""
    if (known := source.devices.get(gpu.uuid)) is not None:
        return {**known, "env": []}
    if gpu.parent:
        raise NotReachable(f"{source.path} does not name the slice {gpu.uuid}")
    path = f"/dev/nvidia{gpu.minor_number}"
    if gpu.minor_number < 0:
        raise NotReachable(f"GPU {gpu.uuid}: the driver does not report the number of its device file")
    nodes = [one for one in whole.get("deviceNodes", ()) if one.get("path") == path] or [{"path": path}]
    return {"deviceNodes": nodes}


def _is_of_one_gpu(edit: Any) -> bool:
    """Whether an edit is about one GPU, and not about all that is needed for any."""
    if isinstance(edit, Mapping) and "path" in edit and "hookName" not in edit:
        return bool(_OF_ONE_GPU.fullmatch(str(edit["path"])))
    return (
        isinstance(edit, Mapping) and "hookName" in edit and any("/dri" in str(word) for word in edit.get("args") or ())
    )


def _is_mps_program(edit: Any) -> bool:
    """Whether an edit brings a program that controls MPS, which no tenant needs."""
    return isinstance(edit, Mapping) and Path(str(edit.get("containerPath", ""))).name.startswith(_MPS_PROGRAMS)


def _plain(edits: Mapping[str, list[Any]]) -> Edits:
    """Without empty lists."""
    return {name: value for name, value in edits.items() if value}
