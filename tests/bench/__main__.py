"""``make bench``: everything, or the named parts: ``python -m tests.bench binding simulator``."""

import sys

from tests.bench import binding, exporter, node, rates, reclaim, scale, simulator, startup, topology

PARTS = {
    "binding": binding.run, "exporter": exporter.run, "node": node.run, "reclaim": reclaim.run, "scale": scale.run,
    "simulator": simulator.run, "rates": rates.run, "startup": startup.run, "topology": topology.run,
}  # fmt: skip

if __name__ == "__main__":
    for part in sys.argv[1:] or PARTS:
        PARTS[part]()
        print()
