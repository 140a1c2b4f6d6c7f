"""Programs of a real node: what is installed is used, what is not comes out of Debian packages, whole or not at all."""

import pytest

from tangram.errors import MissingTool
from tangram.sandbox import packages

# Writes down what it is asked, and "downloads" a file for each package, once the lists are as wanted.
FAKE_APT = """#!/bin/sh
echo "$*" >> "$FAKE_HOME/asked"
case "$*" in
  *" update") exit ${FAKE_UPDATE_STATUS:-0};;
esac
case "$FAKE_LISTS $*" in
  "stale "*Dir::State::lists=*) ;;
  "stale "*) echo "E: Unable to locate package" >&2; exit 100;;
  "broken "*) echo "E: Could not resolve 'deb.debian.org'" >&2; exit 100;;
esac
while [ "$1" != "download" ]; do shift; done
shift
for package; do : > "${package}_1.0_amd64.deb"; done
"""
# "Unpacks" what packages.PACKAGES says the package holds.
FAKE_DPKG = """#!/bin/sh
[ -z "$FAKE_DISK_FULL" ] || { echo "dpkg-deb: error: No space left on device" >&2; exit 2; }
mkdir -p "$3/usr/bin"
case "$2" in
  */containerd_*) names="containerd containerd-shim-runc-v2 ctr";;
  */runc_*) names="runc";;
  */containernetworking-plugins_*) names="bridge host-local loopback";;
  */busybox-static_*) names="busybox";;
esac
for name in $names; do echo "#!/bin/sh" > "$3/usr/bin/$name"; chmod +x "$3/usr/bin/$name"; done
"""
EVERY_PROGRAM = {program for programs in packages.PACKAGES.values() for program in programs}


@pytest.fixture
def debian(workshop, monkeypatch):
    """A machine with apt-get and none of the programs."""
    workshop.tool("apt-get", FAKE_APT)
    workshop.tool("dpkg-deb", FAKE_DPKG)
    monkeypatch.setattr(packages, "_installed", lambda _: str(workshop.tools))
    return workshop


def asked(machine):
    file = machine.home / "asked"
    return file.read_text().splitlines() if file.exists() else []


def test_missing_packages_are_fetched_once_and_leave_only_what_is_whole(debian, lines):
    assert packages.missing_packages() == tuple(packages.PACKAGES)

    first = packages.fetch(report=lines.append)
    second = packages.fetch(report=lines.append)

    assert first == second
    assert first.keys() == EVERY_PROGRAM
    assert all(path.is_relative_to(debian.cache / "debian") for path in first.values())
    assert len(asked(debian)) == 1
    assert len(lines) == 1
    assert sorted(entry.name for entry in debian.cache.iterdir()) == ["debian"]


def test_what_the_machine_has_is_used_and_the_rest_fetched(debian):
    for name in ("containerd", "containerd-shim-runc-v2", "ctr"):
        debian.tool(name, "#!/bin/sh\n")

    paths = packages.fetch()

    assert paths["ctr"] == debian.tools / "ctr"
    assert asked(debian)[0].endswith("download runc containernetworking-plugins busybox-static")


def test_programs_of_one_package_never_come_from_two_places(debian):
    debian.tool("ctr", "#!/bin/sh\n")

    paths = packages.fetch()

    assert paths["ctr"].parent == paths["containerd"].parent
    assert paths["ctr"].is_relative_to(debian.cache)


def test_a_busybox_that_needs_a_loader_is_not_enough_for_an_image(debian):
    debian.tool("busybox", "\x7fELF /lib64/ld-linux-x86-64.so.2")

    assert packages.fetch()["busybox"].is_relative_to(debian.cache)


def test_absent_or_stale_package_lists_are_fetched_beside_the_machines_own(debian, monkeypatch):
    monkeypatch.setenv("FAKE_LISTS", "stale")

    assert packages.fetch().keys() == EVERY_PROGRAM

    _, update, again = asked(debian)
    assert f"Dir::State::lists={debian.cache}" in update
    assert f"Dir::State::lists={debian.cache}" in again


def test_half_a_package_in_the_cache_counts_as_none(debian):
    folder = debian.cache / "debian" / "containerd_0.9_amd64" / "usr" / "bin"
    folder.mkdir(parents=True)
    (folder / "ctr").write_text("#!/bin/sh\n")
    (folder / "ctr").chmod(0o755)

    assert packages.fetch()["ctr"] == debian.cache / "debian/containerd_1.0_amd64/usr/bin/ctr"


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ({"FAKE_LISTS": "broken"}, "E: Could not resolve 'deb.debian.org'"),
        ({"FAKE_LISTS": "stale", "FAKE_UPDATE_STATUS": "100"}, "apt-get: exit status 100"),
        ({"FAKE_DISK_FULL": "1"}, "No space left on device"),
    ],
)
def test_what_cannot_be_fetched_is_named_with_the_reason_and_leaves_nothing(debian, monkeypatch, setting, reason):
    for name, value in setting.items():
        monkeypatch.setenv(name, value)

    with pytest.raises(MissingTool) as refused:
        packages.fetch()

    assert "a real node needs containerd, containerd-shim-runc-v2, ctr, runc" in str(refused.value)
    assert reason in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not any(path.is_file() for path in debian.cache.rglob("*"))
    assert not list(debian.cache.glob("*.part"))


def test_a_machine_without_apt_get_says_what_to_install(debian, monkeypatch):
    (debian.tools / "apt-get").unlink()
    monkeypatch.setenv("PATH", str(debian.tools))

    with pytest.raises(MissingTool, match=r"apt-get: No such file .* install them by your system's package manager"):
        packages.fetch()
