"""``make bench``: everything, or the named parts: ``python -m tests.bench binding simulator``."""

import sys

from tests.bench import binding, exporter, scale, simulator

PARTS = {"binding": binding.run, "exporter": exporter.run, "scale": scale.run, "simulator": simulator.run}

if __name__ == "__main__":
    for part in sys.argv[1:] or PARTS:
        PARTS[part]()
        print()
