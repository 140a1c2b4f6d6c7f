"""Every example that listens does so on the port that it names, and everything made of it leads there."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.pages.conftest import Reader
from tests.pages.reading import ROOT

from tangram.api.inference import parse_inference_service
from tangram.controllers import manifests

Object = dict[str, Any]

PORTS = {
    # vLLM serves on 8000 unless --port says otherwise.
    "docker.io/vllm/vllm-openai": 8000,
    # Jupyter's images expose 8888.
    "quay.io/jupyter/base-notebook": 8888,
}
"""Where the programs of images listen that cannot be run by a test, as those who make them say."""
PYTHON = "docker.io/library/python"
"""An image whose program runs here, too."""


def objects() -> Iterator[tuple[Path, Object]]:
    """All objects of the examples."""
    for path in sorted((ROOT / "examples").rglob("*.yaml")):
        for obj in yaml.safe_load_all(path.read_text(encoding="utf-8")):
            if isinstance(obj, dict) and "kind" in obj:
                yield path.relative_to(ROOT), obj


@dataclass(frozen=True)
class Listener:
    """A container of an example that names a port."""

    where: str
    container: Object
    port: int
    """The one that others are sent to: of the service where it is one, else of the container."""


def templates(obj: Object) -> Iterator[tuple[Object, int | None]]:
    """The pod specs of an object, with the port of its service."""
    spec = obj.get("spec", {})
    if obj["kind"] == "InferenceService":
        for revision in spec["revisions"]:
            yield revision["template"]["spec"], spec["port"]
    elif obj["kind"] == "TrainingJob":
        for role in spec["roles"]:
            yield role["template"]["spec"], None
    elif "containers" in spec:
        yield spec, None
    elif "template" in spec:
        yield spec["template"]["spec"], None


def listeners() -> Iterator[Listener]:
    for path, obj in objects():
        for spec, port in templates(obj):
            for container in spec["containers"]:
                named = [one["containerPort"] for one in container.get("ports", ())]
                if named or port is not None:
                    where = f"{path}: {obj['kind']} {obj['metadata']['name']}, {container['name']}"
                    yield Listener(where, container, port or named[0])


LISTENERS = list(listeners())


@pytest.mark.parametrize("one", LISTENERS, ids=lambda one: one.where)
def test_a_container_that_listens_declares_the_port_to_which_others_are_sent(one: Listener) -> None:
    assert [port["containerPort"] for port in one.container["ports"]] == [one.port]
    for probe in ("readinessProbe", "livenessProbe", "startupProbe"):
        for how in ("httpGet", "tcpSocket"):
            if how in one.container.get(probe, {}):
                assert one.container[probe][how]["port"] == one.port


@pytest.mark.parametrize("one", LISTENERS, ids=lambda one: one.where)
def test_its_program_answers_there(one: Listener) -> None:
    image, words = (
        one.container["image"].rpartition(":")[0],
        [*one.container.get("command", ()), *one.container.get("args", ())],
    )
    if image == PYTHON:
        assert answers(one.port, *words), "the program does not answer on the port"
    else:
        assert image in PORTS, f"{image}: say where its program listens"
        given = re.search(r"--port[= ](\d+)", " ".join(words))
        assert one.port == (int(given[1]) if given else PORTS[image])


@pytest.mark.slow  # waits in vain
def test_a_program_that_listens_elsewhere_is_found_out() -> None:
    assert not answers(8081, "python", "-m", "http.server", "8080", seconds=3)


@cache
def answers(port: int, *command: str, seconds: float = 60) -> bool:
    """Whether a program of Python's image answers on a port, in a network where nobody else has it."""
    alone = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--net"]
    if shutil.which("unshare") is None or subprocess.run([*alone, "true"], check=False, capture_output=True).returncode:
        pytest.skip("no network of its own can be had here: it takes Linux, `unshare`, and root or user namespaces")
    assert command[0] == "python"
    program = str(Path(__file__).with_name("answers.py"))
    whole = [*alone, sys.executable, program, str(port), str(seconds), sys.executable, *command[1:]]
    return subprocess.run(whole, check=False, capture_output=True).returncode == 0


def test_the_service_and_the_probe_of_each_example_lead_to_its_port() -> None:
    services = [obj for _, obj in objects() if obj["kind"] == "InferenceService"]
    assert len(services) > 5
    for obj in services:
        obj["metadata"] |= {"namespace": "default", "uid": "u"}
        service = parse_inference_service(obj)
        made = manifests.service_services(service)
        assert {port["targetPort"] for one in made for port in one["spec"]["ports"]} == {service.spec.port}
        for revision in service.spec.revisions:
            pod = manifests.service_pod(service, revision, 0)
            probes = [one["readinessProbe"] for one in pod["spec"]["containers"] if "readinessProbe" in one]
            assert [probe.get("tcpSocket", probe.get("httpGet"))["port"] for probe in probes] == [service.spec.port]


def test_the_api_server_takes_every_example(reader: Reader) -> None:
    """Strictly, so that a misspelt field is an error, and with the chart's rules in force."""
    for path, obj in objects():
        if obj["kind"] in ("Pod", "Job", "TrainingJob", "InferenceService"):
            obj["metadata"]["namespace"] = "default"
        reader.sandbox.kubectl("create", "--dry-run=server", "--validate=strict", "-f", "-", input=json.dumps(obj))
        assert path.exists()
