"""Steps against the real API server that several tests take."""

from pathlib import Path

CRDS = Path(__file__).parents[2] / "crds"


def install(sandbox) -> None:
    """Apply the generated definitions and wait until they are served."""
    for step in (
        ("apply", "--server-side", "--force-conflicts", "-f", str(CRDS)),
        ("wait", "--for=condition=Established", "--timeout=60s", "-f", str(CRDS)),
    ):
        sandbox.kubectl(*step)
