"""The traces, where they are at hand."""

from collections.abc import Callable
from pathlib import Path

import pytest

OPENB = Path(__file__).resolve().parents[3] / "shared" / "traces" / "openb"


@pytest.fixture(scope="session")
def openb() -> Callable[[str], Path]:
    """Where a file of the openb trace lies; skips where the trace is not beside the repository."""

    def file(name: str) -> Path:
        path = OPENB / f"openb_{name}.csv"
        if not path.exists():
            pytest.skip(
                f"the openb trace is not at {OPENB}: put openb_node_list_gpu_node.csv and openb_pod_list_*.csv of the "
                "published 2023 GPU cluster trace there"
            )
        return path

    return file
