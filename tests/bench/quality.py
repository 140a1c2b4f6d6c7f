"""How full the default policy gets the published production pool: the mean of ten seeds, and what it has to reach."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.bench.workload import TRACES


def run() -> dict[str, Any]:
    """Run and print one line for each list of pods."""
    if not TRACES.exists():
        print(f"quality: skipped, the openb lists are not at {TRACES}")
        return {}
    command = [str(Path(sys.executable).with_name("tangram")), "quality", "--traces", str(TRACES)]
    command += ["--policies", "bid-price", "-o", "json"]
    answer: dict[str, Any] = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    print(
        f"quality: GPU allocation by the default policy, mean of {len(answer['seeds'])} seeds, load {answer['load']:g}"
    )
    for row in answer["rows"]:
        beside = [f"{name} {row[name]:.2f}" for name in ("target", "published", "bound") if row[name] is not None]
        print(f"  {row['list']:12} {row['mean']:6.2f} %   worst seed {row['worst']:.2f}   {', '.join(beside)}")
    return answer
