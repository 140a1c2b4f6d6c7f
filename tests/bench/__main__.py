"""``make bench``: all parts but the long ones, or those named: ``python -m tests.bench binding startup-real``."""

import sys

from tests.bench import (
    binding,
    border,
    evictions,
    exporter,
    idle,
    node,
    quality,
    rates,
    reach,
    reclaim,
    scale,
    shapes,
    simulator,
    startup,
    startup_real,
    topology,
)

PARTS = {
    "binding": binding.run, "border": border.run, "evictions": evictions.run, "exporter": exporter.run,
    "node": node.run, "quality": quality.run, "reclaim": reclaim.run, "scale": scale.run,
    "shapes": shapes.run, "simulator": simulator.run, "rates": rates.run, "reach": reach.run, "startup": startup.run,
    "topology": topology.run,
}  # fmt: skip
LONG_PARTS = {"idle": idle.run, "startup-real": startup_real.run}

if __name__ == "__main__":
    for part in sys.argv[1:] or PARTS:
        (PARTS | LONG_PARTS)[part]()
        print()
