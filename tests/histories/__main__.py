"""``python -m tests.histories --worlds 10000``: lives through random histories and counts what must never be."""

import argparse
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import repeat

from tests.histories.drawing import KINDS, draw
from tests.histories.findings import Count
from tests.histories.life import live
from tests.histories.shrink import shrink

_SHOWN = 5
"""Seeds that are named for each count."""


def findings_of(seed: int, only: str) -> tuple[int, str, list[tuple[str, int, str]]]:
    """(seed, kind, findings) of one world; runs in a process of its own."""
    history = draw(seed, only)
    return seed, history.kind, [(one.count.name, one.second, one.sentence) for one in live(history)]


def main(arguments: list[str]) -> int:
    """Exit code: 0 when nothing was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.histories", description=__doc__)
    parser.add_argument("--worlds", type=int, default=200, help="how many histories")
    parser.add_argument("--seed", type=int, default=0, help="of the first; the others follow")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--only", choices=KINDS, default="", help="histories of one kind")
    parser.add_argument("--shrink", action="store_true", help="drop what is not needed for what the first world finds")
    parser.add_argument("-v", "--verbose", action="store_true", help="print what happens, in this process")
    given = parser.parse_args(arguments)
    if given.shrink or given.verbose:
        return _closely(given)
    begin = time.perf_counter()
    seeds = range(given.seed, given.seed + given.worlds)
    found: dict[str, list[tuple[int, str, str]]] = {count.name: [] for count in Count}
    kinds: Counter[str] = Counter()
    if given.processes > 1:
        with ProcessPoolExecutor(given.processes) as processes:
            results = list(processes.map(findings_of, seeds, repeat(given.only), chunksize=8))
    else:
        results = [findings_of(seed, given.only) for seed in seeds]
    for seed, kind, findings in results:
        kinds[kind] += 1
        for name, _, sentence in findings:
            found[name].append((seed, kind, sentence))
    seconds = time.perf_counter() - begin
    mixed = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    print(f"{given.worlds} worlds in {seconds:.0f} s on {given.processes} processes: {mixed}")
    for count in Count:
        where = dict.fromkeys(seed for seed, _, _ in found[count.name])
        print(f"{len(found[count.name]):6d}  {count}" + (f" (in {len(where)} worlds)" if where else ""))
    _name_seeds(found, given.only)
    return int(any(found.values()))


def _name_seeds(found: dict[str, list[tuple[int, str, str]]], only: str) -> None:
    for count in Count:
        shown: dict[int, tuple[str, str]] = {}
        for seed, kind, sentence in found[count.name]:
            shown.setdefault(seed, (kind, sentence))
        for seed, (kind, sentence) in list(shown.items())[:_SHOWN]:
            first = " | ".join(sentence.splitlines())[:200]
            again = f"python -m tests.histories --worlds 1 --seed {seed}" + (f" --only {only}" if only else "") + " -v"
            print(f"{count.name} seed {seed} ({kind}): {first}\n    {again}")


def _closely(given: argparse.Namespace) -> int:
    any_found = False
    for seed in range(given.seed, given.seed + given.worlds):
        history = draw(seed, given.only)
        if given.shrink:
            history = shrink(history, partial(live))
        print(f"kind {history.kind}, grace {history.grace}, {history.settings}, drivers {history.drivers}")
        print(f"policy {history.spec}")
        for node in history.nodes:
            print(f"node {node.metadata.name} {node.status.allocatable} {node.metadata.labels}")
        findings = live(history, verbose=True)
        any_found |= bool(findings)
        for one in findings:
            print(f"second {one.second}: {one.count}: {one.sentence}")
    return int(any_found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
