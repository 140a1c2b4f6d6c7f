"""Steps against the real API server that several tests take."""

import json
import ssl
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from tangram.api.kinds import KINDS

CRDS = Path(__file__).parents[2] / "crds"
PLURALS = {kind.name: ("namespaces/default/" if kind.namespaced else "") + kind.plural for kind in KINDS}


def install(sandbox) -> None:
    """Apply the generated definitions and wait until they are served."""
    sandbox.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(CRDS))
    sandbox.kubectl("wait", "--for=condition=Established", "--timeout=60s", "-f", str(CRDS))


def send(sandbox, method: str, path: str, body: dict[str, Any], media: str = "application/json") -> dict[str, Any]:
    """One request to our group, as a dry run with strict fields; answers the object or the Status that refuses it."""
    url = f"{sandbox.server}/apis/scheduling.example.com/v1/{path}?dryRun=All&fieldValidation=Strict"
    headers = {"Authorization": f"Bearer {sandbox.admin_token}", "Content-Type": media}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers, method=method)
    try:
        with urllib.request.urlopen(request, context=ssl.create_default_context(cafile=sandbox.ca_file)) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return json.load(error)


def create(sandbox, written: dict[str, Any]) -> dict[str, Any]:
    """Create the object as a dry run; answers the object with its defaults, or the Status that refuses it."""
    return send(sandbox, "POST", PLURALS[written["kind"]], written)


def fields(status: dict[str, Any]) -> list[str]:
    """The fields that a refusal names."""
    return [cause.get("field", "") for cause in status.get("details", {}).get("causes", ())]
