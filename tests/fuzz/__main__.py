"""``python -m tests.fuzz --pods 1000000 --processes 2``: exit code 1 when anything was raised or miscounted."""

import argparse
import sys
import time
from concurrent.futures import ProcessPoolExecutor

from tests.fuzz.run import Found, fuzz

_APART = 1_000_000_000


def main() -> int:
    """Run and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pods", type=int, default=100_000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    begin, found = time.monotonic(), Found()
    share = -(-given.pods // given.processes)
    with ProcessPoolExecutor(given.processes) as pool:
        for part in pool.map(fuzz, [share] * given.processes, range(given.seed, sys.maxsize, _APART)):
            found.add(part)
    print(f"{found.pods} pods, {found.decisions} decisions, {found.placed} placed, {time.monotonic() - begin:.0f} s")
    print(f"set aside: {found.set_aside.total()}; raised: {found.raised.total()}; illegal: {found.illegal.total()}")
    for what, counts in (("set aside", found.set_aside), ("raised", found.raised), ("illegal", found.illegal)):
        for sentence, count in counts.most_common(20):
            print(f"  {what} {count} x {sentence}")
    return 1 if found.raised or found.illegal else 0


if __name__ == "__main__":
    sys.exit(main())
