"""A container image made here, for nodes that reach no registry: one layer with busybox and a name for each command."""

import hashlib
import io
import json
import platform
import subprocess
import tarfile
from pathlib import Path

from tangram.errors import SandboxError

IMAGE = "docker.io/local/busybox:1"
"""What pods name, with ``imagePullPolicy: Never``; without a command it sleeps."""
PAUSE_IMAGE = "docker.io/local/pause:1"
"""The same image, under the name of the one that holds a pod's namespaces."""
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_FOLDERS = ("bin", "dev", "etc", "proc", "root", "run", "sys", "tmp", "var")
_PASSWORDS = b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"


def write_image(busybox: Path, target: Path) -> None:
    """Write an image archive, as ``docker save`` does, from a statically linked busybox.

    The same busybox gives the same bytes. Raises ``SandboxError`` when it does not run.
    """
    layer = _layer(busybox)
    digest = hashlib.sha256(layer).hexdigest()
    configuration = {
        "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
        "os": "linux",
        "config": {"Env": ["PATH=/bin"], "Cmd": ["sleep", "2147483647"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
    }
    config_bytes = json.dumps(configuration).encode()
    config_name = f"{hashlib.sha256(config_bytes).hexdigest()}.json"
    names = [name.removeprefix("docker.io/") for name in (IMAGE, PAUSE_IMAGE)]
    manifest = [{"Config": config_name, "RepoTags": names, "Layers": [f"{digest}/layer.tar"]}]
    with tarfile.open(target, "w") as archive:
        _add(archive, f"{digest}/layer.tar", layer)
        _add(archive, config_name, config_bytes)
        _add(archive, "manifest.json", json.dumps(manifest).encode())


def _layer(busybox: Path) -> bytes:
    answer = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        raise SandboxError(f"{busybox} --list failed: {answer.stderr.strip()}")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as layer:
        for folder in _FOLDERS:
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if folder == "tmp" else 0o755
            layer.addfile(entry)
        _add(layer, "etc/passwd", _PASSWORDS)
        _add(layer, "bin/busybox", busybox.read_bytes(), mode=0o755)
        for command in sorted({*answer.stdout.split()} - {"busybox"}):
            link = tarfile.TarInfo(f"bin/{command}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            layer.addfile(link)
    return buffer.getvalue()


def _add(archive: tarfile.TarFile, name: str, content: bytes, *, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    archive.addfile(entry, io.BytesIO(content))
