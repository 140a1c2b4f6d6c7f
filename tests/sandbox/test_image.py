"""The one image of real nodes: made of a busybox, the same bytes each time."""

import hashlib
import io
import json
import tarfile

import pytest

from tangram.errors import SandboxError
from tangram.sandbox.image import write_image


@pytest.fixture
def busybox(workshop):
    workshop.tool("busybox", "#!/bin/sh\nprintf 'busybox\\nsh\\nsleep\\n'\n")
    return workshop.tools / "busybox"


def content(archive, name):
    return archive.extractfile(name).read()


def test_an_image_holds_busybox_and_a_name_for_each_of_its_commands(busybox, tmp_path):
    write_image(busybox, tmp_path / "image.tar")

    with tarfile.open(tmp_path / "image.tar") as archive:
        (manifest,) = json.loads(content(archive, "manifest.json"))
        layer = content(archive, manifest["Layers"][0])
        configuration = json.loads(content(archive, manifest["Config"]))
    assert manifest["RepoTags"] == ["local/busybox:1", "local/pause:1"]
    assert configuration["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(layer).hexdigest()}"]
    with tarfile.open(fileobj=io.BytesIO(layer)) as root:
        assert content(root, "bin/busybox") == busybox.read_bytes()
        assert root.getmember("bin/busybox").mode == 0o755
        assert root.getmember("bin/sh").linkname == root.getmember("bin/sleep").linkname == "busybox"
        assert root.getmember("tmp").mode == 0o1777


def test_the_same_busybox_gives_the_same_image(busybox, tmp_path):
    write_image(busybox, tmp_path / "one.tar")
    write_image(busybox, tmp_path / "two.tar")

    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()


def test_a_busybox_that_does_not_run_is_a_clear_error(workshop, tmp_path):
    workshop.tool("busybox", "#!/bin/sh\necho 'applet not found' >&2; exit 1\n")

    with pytest.raises(SandboxError, match=r"busybox --list failed: applet not found"):
        write_image(workshop.tools / "busybox", tmp_path / "image.tar")
