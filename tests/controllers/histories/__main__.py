"""``python -m tests.controllers.histories --worlds 10000``: lives through random histories of the controllers and
counts what must never be."""

import argparse
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat

from tests.controllers.histories.drawing import KINDS, draw
from tests.controllers.histories.findings import Count
from tests.controllers.histories.life import live

_SHOWN = 5
"""Seeds that are named for each count."""

Told = tuple[int, str, list[tuple[str, float, str]]]
"""(seed, kind, [(count, second, sentence)])."""


def findings_of(seed: int, only: str) -> Told:
    """What is found in one world; runs in a process of its own."""
    history = draw(seed, only)
    try:
        found = [(one.count.name, one.second, one.sentence) for one in live(history)]
    except Exception as error:  # noqa: BLE001 - whatever it is, it is a finding of this seed
        found = [(Count.EXCEPTIONS.name, 0.0, repr(error))]
    return seed, history.kind, found


def main(arguments: list[str]) -> int:
    """Exit code: 0 when nothing was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.controllers.histories", description=__doc__)
    parser.add_argument("--worlds", type=int, default=200, help="how many histories")
    parser.add_argument("--seed", type=int, default=0, help="of the first; the others follow")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--only", choices=KINDS, default="", help="histories of one kind")
    parser.add_argument("-v", "--verbose", action="store_true", help="print what happens, in this process")
    given = parser.parse_args(arguments)
    seeds = range(given.seed, given.seed + given.worlds)
    if given.verbose:
        found = [(seed, draw(seed, given.only).kind, live(draw(seed, given.only), verbose=True)) for seed in seeds]
        for _, _, findings in found:
            for one in findings:
                print(f"second {one.second:.1f}: {one.count}: {one.sentence}")
        return int(any(findings for _, _, findings in found))
    begin = time.perf_counter()
    if given.processes > 1:
        with ProcessPoolExecutor(given.processes) as processes:
            results = list(processes.map(findings_of, seeds, repeat(given.only), chunksize=8))
    else:
        results = [findings_of(seed, given.only) for seed in seeds]
    kinds = Counter(kind for _, kind, _ in results)
    mixed = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    print(f"{given.worlds} worlds in {time.perf_counter() - begin:.0f} s on {given.processes} processes: {mixed}")
    _print(results, given.only)
    return int(any(findings for _, _, findings in results))


def _print(results: list[Told], only: str) -> None:
    for count in Count:
        found = [(seed, kind, text) for seed, kind, told in results for name, _, text in told if name == count.name]
        where = {seed: (kind, text) for seed, kind, text in reversed(found)}
        print(f"{len(found):6d}  {count}" + (f" (in {len(where)} worlds)" if where else ""))
        for seed, (kind, text) in sorted(where.items())[:_SHOWN]:
            again = f"--worlds 1 --seed {seed}" + (f" --only {only}" if only else "") + " -v"
            print(f"          seed {seed} ({kind}): {' | '.join(text.splitlines())[:250]}\n              {again}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
