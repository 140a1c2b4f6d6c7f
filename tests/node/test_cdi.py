"""CDI: specifications as NVIDIA writes them, ours made of those, and what the reference library makes of ours.

The library is that of the CNCF (tags.cncf.io/container-device-interface), which containerd and CRI-O call.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tangram.api.names import GROUP
from tangram.api.objects import DeviceShare
from tangram.errors import NotReachable
from tangram.node import cdi
from tangram.node.allocation import Grant
from tangram.node.gpus import Gpu, Holding, Isolation
from tangram.node.injection import Injection, Injector, chosen
from tangram.node.records import Claimant, Want

A = Gpu(uuid="GPU-a", index=0, model="H100", memory_mib=81920, compute_capability=(9, 0), minor_number=0)
B = Gpu(uuid="GPU-b", index=1, model="H100", memory_mib=81920, compute_capability=(9, 0), minor_number=3)
LIBRARY = "/usr/lib/x86_64-linux-gnu/libcuda.so.580.95.05"
HOOK = {
    "hookName": "createContainer",
    "path": "/usr/bin/nvidia-cdi-hook",
    "args": ["nvidia-cdi-hook", "update-ldcache", "--folder", "/usr/lib/x86_64-linux-gnu"],
}


def mount(path: str) -> dict[str, Any]:
    return {"hostPath": path, "containerPath": path, "options": ["ro", "nosuid", "nodev", "bind"]}


def device(path: str) -> dict[str, str]:
    """A device file; the one on the host is any that this machine has."""
    return {"path": path, "hostPath": "/dev/null"}


COMMON = {
    "env": ["NVIDIA_VISIBLE_DEVICES=void"],
    "deviceNodes": [device(f"/dev/{name}") for name in ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools")],
    "mounts": [mount(LIBRARY), mount("/usr/bin/nvidia-smi"), mount("/usr/bin/nvidia-cuda-mps-control")],
    "hooks": [HOOK],
}
CHMOD = {**HOOK, "args": ["nvidia-cdi-hook", "chmod", "--mode", "755", "--path", "/dev/dri"]}

BY_HAND = {  # nvidia-ctk cdi generate
    "cdiVersion": "0.5.0",
    "kind": "nvidia.com/gpu",
    "containerEdits": COMMON,
    "devices": [
        {
            "name": "GPU-a",
            "containerEdits": {
                "deviceNodes": [device("/dev/nvidia0"), device("/dev/dri/card1")],
                "hooks": [CHMOD],
            },
        }
    ],
}
OPERATOR = {  # the GPU Operator's, for its own containers: all GPUs as one device
    "cdiVersion": "0.5.0",
    "kind": "management.nvidia.com/gpu",
    "devices": [
        {
            "name": "all",
            "containerEdits": {
                **COMMON,
                "deviceNodes": [device("/dev/nvidia0"), device("/dev/nvidia3"), *COMMON["deviceNodes"]],
            },
        }
    ],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "cdi"
    made.mkdir()
    return made


def put(folder: Path, name: str, content: Mapping[str, Any]) -> None:
    text = yaml.safe_dump(content) if name.endswith("yaml") else json.dumps(content)
    (folder / name).write_text(text)


def injector(folder: Path, mode: Isolation = Isolation.MPS) -> Injector:
    return Injector(mode, Injection.CDI, cdi_folders=(folder,))


def granted(share: int, memory_mib: int = 0, gpu: Gpu = A) -> Grant:
    parts = (DeviceShare(gpu.uuid, share, memory_mib),)
    want = Want("main", f"{GROUP}/gpu", share, parts)
    return Grant(Claimant("uid", "team", "pod", (want,)), want, ((gpu, parts[0]),))


# Which way works.


@pytest.mark.parametrize(
    ("runtime", "source", "way"),
    [
        ("containerd://2.1.4", BY_HAND, Injection.CDI),
        ("containerd://1.7.28", OPERATOR, Injection.CDI),
        ("containerd://1.7.28", BY_HAND, Injection.ENV),
        ("containerd://1.6.20", OPERATOR, Injection.ENV),
        ("cri-o://1.33.0", BY_HAND, Injection.CDI),
        ("docker://27.0.1", BY_HAND, Injection.ENV),
        ("containerd://2.1.4", None, Injection.ENV),
        ("", BY_HAND, Injection.ENV),
        ("containerd://v2.0.0-rc.1~ds", BY_HAND, Injection.CDI),
    ],
)
def test_how_gpus_get_into_containers_is_found_out(
    folder: Path, runtime: str, source: Mapping[str, Any] | None, way: Injection
) -> None:
    if source is not None:
        put(folder, "nvidia.yaml", source)
    found, why = chosen(runtime, cdi.find((folder,)))
    assert (found, bool(why)) == (way, True)


# NVIDIA's specifications.


def test_the_kind_that_says_most_of_single_gpus_is_taken_and_what_is_none_is_left_out(folder: Path) -> None:
    put(folder, "management.nvidia.com-gpu.yaml", OPERATOR)
    put(folder, "vendor.json", {"cdiVersion": "0.5.0", "kind": "vendor.com/nic", "devices": []})
    for name, text in {"a.json": "{", "b.yaml": "a: [", "c.json": "[]", "d.json": '{"kind": 1, "devices": 3}'}.items():
        (folder / name).write_text(text)
    (folder / "e.txt").write_text("no specification")
    (folder / "f.json").symlink_to("/nowhere")
    found = cdi.find((folder / "missing", folder))
    assert found is not None
    assert found.kind == "management.nvidia.com/gpu"
    put(folder, "nvidia.json", BY_HAND)
    found = cdi.find((folder,))
    assert found is not None
    assert found.kind == "nvidia.com/gpu"


def test_without_one_nothing_is_served_and_the_reason_is_one_sentence(folder: Path) -> None:
    there = injector(folder)
    there.prepare((A,))
    wanted = f"no CDI specification of NVIDIA's is in {folder}: nvidia-ctk cdi generate writes one"
    assert there.problem == wanted
    with pytest.raises(NotReachable, match="no CDI specification"):
        there.answer(granted(100))
    put(folder, "nvidia.yaml", BY_HAND)
    there.prepare((A,))
    assert there.problem == ""


def test_one_that_names_no_library_is_none(folder: Path) -> None:
    put(folder, "nvidia.json", {**BY_HAND, "containerEdits": {"deviceNodes": COMMON["deviceNodes"]}, "devices": []})
    there = injector(folder)
    there.prepare((A,))
    assert there.problem == f"{folder}/nvidia.json names no library of the driver"


def test_ours_is_written_again_when_theirs_changes_and_not_before(folder: Path) -> None:
    put(folder, "nvidia.json", BY_HAND)
    there = injector(folder)
    there.prepare((A,))
    ours = folder / f"{GROUP}-gpu.json"
    ours.unlink()
    there.prepare((A,))
    assert not ours.exists()
    put(folder, "nvidia.json", {**BY_HAND, "containerEdits": {**COMMON, "mounts": [mount("/usr/lib/libcuda.so.590")]}})
    there.prepare((A,))
    assert "libcuda.so.590" in ours.read_text()
    there.prepare((A, B))
    assert "GPU-b" in ours.read_text()


def test_what_was_written_for_a_part_stays_while_somebody_may_need_it(folder: Path) -> None:
    now = 0.0
    put(folder, "nvidia.json", BY_HAND)
    there = injector(folder)
    there._own = cdi.Folder(folder, lambda: now)
    there.prepare((A,))
    there.answer(granted(30))
    part = folder / f"{GROUP}-GPU-a_30_0.json"
    there.keep(())
    now = 599.0
    there.keep(())
    assert part.exists(), "who was given it a moment ago is no holder yet"
    there.keep((Holding("uid", "team", "pod", "main", "GPU-a", 30),))
    now = 1200.0
    there.keep(())
    assert part.exists()
    now = 1801.0
    there.keep(())
    assert not part.exists()
    assert (folder / f"{GROUP}-gpu.json").exists()


# What the reference library makes of it.


@pytest.fixture(scope="session")
def resolver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that resolves names as a runtime does, by the reference library."""
    if shutil.which("go") is None:
        pytest.skip("the reference library of CDI is in Go, and there is no Go: install it (https://go.dev/dl)")
    program = tmp_path_factory.mktemp("cdi") / "resolve"
    environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-modcacherw -mod=readonly"}
    source = Path(__file__).parent / "cdi"
    subprocess.run(["go", "build", "-o", program, "."], cwd=source, env=environment, check=True, timeout=280)
    return program


def run_by(resolver: Path, folder: Path, names: list[str], env: list[str]) -> dict[str, Any]:
    """The container that a runtime would run; ``env`` is what the pod says."""
    container = {"ociVersion": "1.1.0", "process": {"user": {"uid": 0, "gid": 0}, "cwd": "/", "env": env}, "linux": {}}
    done = subprocess.run(
        [resolver, str(folder), "--", *names], input=json.dumps(container), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    made: dict[str, Any] = json.loads(done.stdout)
    return made


@pytest.mark.slow
@pytest.mark.parametrize(("name", "source"), [("nvidia.yaml", BY_HAND), ("management.nvidia.com-gpu.yaml", OPERATOR)])
def test_a_container_gets_its_gpu_the_driver_and_its_limits_last(
    resolver: Path, folder: Path, name: str, source: Mapping[str, Any]
) -> None:
    put(folder, name, source)
    there = injector(folder)
    there.prepare((A,))
    answer = there.answer(granted(30, 8192))
    names = [one.name for one in answer.cdi_devices]
    assert names == [f"{GROUP}/gpu=GPU-a", f"{GROUP}/part=GPU-a_30_8192"]
    mine = ["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE=100", "TANGRAM_GPU_ISOLATION=exclusive", "OTHER=1"]
    made = run_by(resolver, folder, names, mine)
    variables = dict(one.split("=", 1) for one in made["process"]["env"])
    assert variables["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] == "30"
    assert variables["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] == "0=8192M"
    assert (variables["TANGRAM_GPU_ISOLATION"], variables["OTHER"]) == ("mps", "1")
    assert variables["NVIDIA_VISIBLE_DEVICES"] == "void"
    mounted = {one["destination"] for one in made["mounts"]}
    assert LIBRARY in mounted
    assert "/usr/bin/nvidia-cuda-mps-control" not in mounted, "what controls MPS is nothing for tenants"
    assert made["hooks"]["createContainer"][0]["args"][1] == "update-ldcache"
    devices = {one["path"] for one in made["linux"]["devices"]}
    assert {"/dev/nvidia0", "/dev/nvidiactl"} <= devices
    assert "/dev/nvidia3" not in devices
