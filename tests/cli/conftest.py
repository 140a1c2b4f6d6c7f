"""An API server in a thread that has the objects which a test gives it, refuses what the test says, and lets others be
faster."""

import json
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from click.testing import CliRunner, Result

from tangram.cli.main import tangram
from tangram.cluster import paths
from tangram.cluster.paths import Resource

Object = dict[str, Any]


@dataclass
class Api:
    """Objects by path, and what a client does with them."""

    objects: dict[str, Object] = field(default_factory=dict)
    refused: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Path -> status and message of the refusal."""
    before_patch: list[Callable[[], None]] = field(default_factory=list)
    """What others do just before a patch comes in, one for each patch."""
    patches: list[Object] = field(default_factory=list)
    read: list[str] = field(default_factory=list)
    """Paths that were asked for."""
    kubeconfig: Path = Path()

    def put(self, resource: Resource, obj: Object, namespace: str = "") -> Object:
        """Let an object be there, with a version of its own."""
        metadata = obj["metadata"]
        where = namespace or ("default" if resource.namespaced else "")
        metadata |= {"uid": metadata.get("uid", f"uid-{metadata['name']}"), **({"namespace": where} if where else {})}
        metadata["resourceVersion"] = str(int(metadata.get("resourceVersion", "0")) + 1)
        self.objects[resource.path(metadata["name"], where)] = obj
        return obj

    def run(self, *arguments: str) -> Result:
        """The command line against this server."""
        return CliRunner().invoke(tangram, [*arguments, "--kubeconfig", str(self.kubeconfig)])

    def get(self, path: str) -> tuple[int, Object]:
        self.read.append(path)
        if path == "/version":
            return 200, {"gitVersion": "v1.99.0"}
        if path in self.objects:
            return 200, self.objects[path]
        root, _, plural = path.rpartition("/")
        if plural not in {resource.plural for resource in paths.RESOURCES}:
            return 404, status(404, "NotFound", f"{path} not found")
        inside = re.compile(rf"{re.escape(root)}(/namespaces/[^/]+)?/{plural}/[^/]+")
        found = [obj for key, obj in self.objects.items() if inside.fullmatch(key)]
        return 200, {"kind": "List", "metadata": {}, "items": found}

    def patch(self, path: str, content: Object) -> tuple[int, Object]:
        if self.before_patch:
            self.before_patch.pop(0)()
        if path not in self.objects:
            return 404, status(404, "NotFound", f"{path} not found")
        obj = self.objects[path]
        for name in ("uid", "resourceVersion"):
            wanted = content.get("metadata", {}).get(name)
            if wanted is not None and wanted != obj["metadata"][name]:
                return 409, status(409, "Conflict", "the object has been modified")
        self.patches.append(content)
        merge(obj, content)
        obj["metadata"]["resourceVersion"] = str(int(obj["metadata"]["resourceVersion"]) + 1)
        return 200, obj


def has_labels(obj: Object, selector: str) -> bool:
    """Whether an object has what a selector of equalities names; one of another form selects nothing."""
    wanted = dict(clause.partition("=")[::2] for clause in selector.split(","))
    return wanted.items() <= obj["metadata"].get("labels", {}).items()


def merge(obj: Object, content: Object) -> None:
    for key, value in content.items():
        if isinstance(value, dict):
            merge(obj.setdefault(key, {}), value)
        else:
            obj[key] = value


def status(code: int, reason: str, message: str) -> Object:
    return {"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": message}


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    """An API server without objects."""
    served = Api(kubeconfig=tmp_path / "kubeconfig")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self, act: Callable[[str], tuple[int, Object]]) -> None:
            path, query = urlsplit(self.path).path, parse_qs(urlsplit(self.path).query)
            if path in served.refused:
                code, message = served.refused[path]
                found = status(code, "Forbidden", message)
            else:
                code, found = act(path)
                if "labelSelector" in query and "items" in found:
                    found["items"] = [one for one in found["items"] if has_labels(one, query["labelSelector"][0])]
            body = json.dumps(found).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            self._answer(served.get)

        def do_PATCH(self) -> None:
            content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self._answer(lambda path: served.patch(path, content))

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    served.kubeconfig.write_text(kubeconfig(f"http://127.0.0.1:{server.server_port}"))
    yield served
    server.shutdown()
    server.server_close()
    thread.join()


def kubeconfig(server: str) -> str:
    return json.dumps(
        {
            "apiVersion": "v1", "kind": "Config", "current-context": "x",
            "clusters": [{"name": "x", "cluster": {"server": server}}],
            "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
            "users": [{"name": "x", "user": {}}],
        }
    )  # fmt: skip
