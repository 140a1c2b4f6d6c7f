"""Versions of the container software of a node, and the holes that are known of them (fault 28)."""

from dataclasses import replace
from pathlib import Path

import pytest
from tests.node.test_report import FACTS, status

from tangram.node.holes import HOLES, holes_of, version_of
from tangram.node.software import Software, software, toolkit_version


@pytest.mark.parametrize(
    ("name", "version", "cves"),
    [
        ("nvidia-container-toolkit", "1.16.1", ["CVE-2024-0132", "CVE-2025-23359", "CVE-2025-23266"]),
        ("nvidia-container-toolkit", "1.16.2", ["CVE-2025-23359", "CVE-2025-23266"]),
        ("nvidia-container-toolkit", "1.17.3", ["CVE-2025-23359", "CVE-2025-23266"]),
        ("nvidia-container-toolkit", "1.17.7-1", ["CVE-2025-23266"]),
        ("nvidia-container-toolkit", "1.17.8", []),
        ("nvidia-container-toolkit", "1.18.0", []),
        ("nvidia-container-toolkit", "", []),
        ("containerd", "1.6.38", ["CVE-2026-53488", "CVE-2026-53492"]),
        ("containerd", "1.7.28-0ubuntu1~24.04.1", ["CVE-2026-53488", "CVE-2026-53492"]),
        ("containerd", "v2.1.5-k3s1", ["CVE-2026-53488", "CVE-2026-53492"]),
        ("containerd", "2.1.9", []),
        ("containerd", "2.2.4", ["CVE-2026-53488", "CVE-2026-53492"]),
        ("containerd", "2.3.2", []),
        ("containerd", "2.4.0", []),
        ("containerd", "garbage", []),
        ("cri-o", "1.34.1", []),
    ],
)
def test_fault_28_versions_below_a_fixed_hole_are_named(name: str, version: str, cves: list[str]) -> None:
    found = holes_of(name, version)
    assert [one.partition(":")[0] for one in found] == cves
    assert all(f"{name} {version} is below " in one for one in found)


def test_a_table_of_holes_says_where_each_is_mended() -> None:
    for holes in HOLES.values():
        for hole in holes:
            assert hole.cve.startswith("CVE-20")
            assert hole.fixed
    assert version_of("2.3") == (2, 3, 0)


@pytest.mark.parametrize("folder", ["lib/x86_64-linux-gnu", "lib/aarch64-linux-gnu", "lib64", "local/nvidia/toolkit"])
def test_the_toolkit_is_found_by_the_name_of_its_library(tmp_path: Path, folder: str) -> None:
    (tmp_path / folder).mkdir(parents=True)
    for name in ("libnvidia-container.so.1", "libnvidia-container.so.1.17.4", "libnvidia-container-go.so.1.17.4"):
        (tmp_path / folder / name).touch()
    assert toolkit_version(tmp_path) == "1.17.4"


def test_of_several_toolkits_the_oldest_counts_and_none_is_no_fault(tmp_path: Path) -> None:
    assert toolkit_version(tmp_path / "nowhere") == ""
    for folder, version in (("lib64", "1.18.0"), ("local/nvidia/toolkit", "1.9.0")):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / f"libnvidia-container.so.{version}").touch()
    assert toolkit_version(tmp_path) == "1.9.0"


def test_fault_28_the_gpunode_says_what_runs_and_which_holes_it_has(tmp_path: Path) -> None:
    (tmp_path / "lib64").mkdir()
    (tmp_path / "lib64" / "libnvidia-container.so.1.17.7").touch()
    found = status(replace(FACTS, software=software("containerd://2.2.4", tmp_path)))
    assert (found.runtime_version, found.toolkit_version) == ("containerd://2.2.4", "1.17.7")
    assert [one.partition(":")[0] for one in found.known_holes] == [
        "CVE-2025-23266",
        "CVE-2026-53488",
        "CVE-2026-53492",
    ]
    plain = status(replace(FACTS, software=Software("containerd://" + "9" * 500)))
    assert plain.known_holes == ()
    assert len(plain.runtime_version) == 64
