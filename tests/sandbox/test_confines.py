"""Bridge and control groups of a real node, without making any on this machine."""

import pytest

from tangram.errors import SandboxError
from tangram.sandbox import confines

HEADER = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n"
IDENTITY, OTHER = "abcdef0123456789", "1234567890abcdef"


@pytest.fixture
def machine(workshop, tmp_path, monkeypatch):
    """A machine with two control group trees, no bridge of ours, and a busybox that writes down what it is asked."""
    for tree in ("cpu", "memory"):
        (tmp_path / "cgroup" / tree).mkdir(parents=True)
        (tmp_path / "cgroup" / tree / "cgroup.procs").write_text("")
    (tmp_path / "links").mkdir()
    (tmp_path / "routes").write_text(HEADER)
    monkeypatch.setattr(confines, "_CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(confines, "_LINKS", tmp_path / "links")
    monkeypatch.setattr(confines, "_ROUTES", tmp_path / "routes")
    monkeypatch.setattr(confines, "_LOCK", tmp_path / "lock")
    monkeypatch.setattr(confines, "running_identities", lambda: {IDENTITY})
    workshop.tool("busybox", '#!/bin/sh\necho "$*" >> "$FAKE_HOME/asked"\n')
    return workshop


def asked(machine):
    return (machine.home / "asked").read_text().splitlines()


def test_a_bridge_gets_the_lowest_network_that_no_route_has(machine, tmp_path):
    taken = "tangram-1 0000580A 00000000 0001 0 0 0 00FFFFFF 0 0 0\ntangram-2 0001580A 0 1 0 0 0 0 0 0 0\n"
    (tmp_path / "routes").write_text(HEADER + taken)

    network = confines.make_bridge(IDENTITY, machine.tools / "busybox")

    assert (network.bridge, network.subnet, network.address) == ("tangram-abcdef0", "10.88.2.0/24", "10.88.2.1")
    assert asked(machine) == [
        "ip link add tangram-abcdef0 type bridge",
        "ip addr add 10.88.2.1/24 dev tangram-abcdef0",
        "ip link set tangram-abcdef0 up",
    ]


def test_a_machine_with_every_network_taken_says_so(machine, tmp_path):
    routes = "".join(f"x 00{number:02X}580A 0 1\n" for number in range(256))
    (tmp_path / "routes").write_text(HEADER + routes)

    with pytest.raises(SandboxError, match=r"all networks from .* are taken"):
        confines.make_bridge(IDENTITY, machine.tools / "busybox")


def test_groups_are_made_in_every_tree_and_removed_with_all_below(machine, tmp_path):
    name = confines.make_cgroups(IDENTITY)
    groups = [tmp_path / "cgroup" / tree / name for tree in ("cpu", "memory")]
    assert all(group.is_dir() for group in groups)
    (groups[0] / "kubepods" / "pod").mkdir(parents=True)

    confines.remove_confines(IDENTITY, machine.tools / "busybox")
    confines.remove_confines(IDENTITY, machine.tools / "busybox")

    assert not any(group.exists() for group in groups)


def test_a_group_that_is_still_used_is_named(machine, monkeypatch, tmp_path):
    monkeypatch.setattr(confines, "_PATIENCE_SECONDS", 0.0)
    used = tmp_path / "cgroup" / "cpu" / confines.make_cgroups(IDENTITY)
    (used / "held").write_text("what keeps rmdir from succeeding")

    with pytest.raises(SandboxError, match=f"the control group {used} cannot be removed"):
        confines.remove_confines(IDENTITY, machine.tools / "busybox")


def test_one_tree_of_version_2_is_enough(machine, tmp_path):
    (tmp_path / "cgroup" / "cgroup.controllers").write_text("cpu memory")

    assert confines.cgroup_roots() == [tmp_path / "cgroup"]


def test_only_what_dead_sandboxes_left_is_cleared_away(machine, tmp_path):
    names = {who: confines.confines_name(who) for who in (IDENTITY, OTHER)}
    for name in (*names.values(), "tangram-mine"):
        (tmp_path / "links" / name).mkdir()
        (tmp_path / "cgroup" / "cpu" / name).mkdir()

    confines.make_bridge("fedcba9876543210", machine.tools / "busybox")

    assert asked(machine)[0] == f"ip link del {names[OTHER]}"
    assert not any("del" in line for line in asked(machine)[1:])
    left = {entry.name for entry in (tmp_path / "cgroup" / "cpu").iterdir() if entry.is_dir()}
    assert left == {names[IDENTITY], "tangram-mine"}


def test_a_refusal_of_the_kernel_is_told_in_its_words(machine):
    machine.tool("busybox", "#!/bin/sh\necho 'ip: RTNETLINK answers: Operation not permitted' >&2; exit 2\n")

    with pytest.raises(SandboxError, match=r"ip link add tangram-abcdef0 type bridge failed: .*not permitted"):
        confines.make_bridge(IDENTITY, machine.tools / "busybox")


def test_a_bridge_is_removed_by_the_machines_own_ip_when_the_cache_has_been_emptied(machine, tmp_path):
    machine.tool("ip", '#!/bin/sh\necho "$*" >> "$FAKE_HOME/own"\n')
    (tmp_path / "links" / confines.confines_name(IDENTITY)).mkdir()

    confines.remove_confines(IDENTITY, tmp_path / "no" / "busybox")

    assert (tmp_path / "own").read_text() == "link del tangram-abcdef0\n"
