"""Pods in slots, and which of the claims whose volumes are not there several of them name."""

from hypothesis import given
from hypothesis import strategies as st

from tangram.plan import PodName
from tangram.snapshot.pods.waiting import PendingTable, Wanted

CLAIMS = st.lists(st.sampled_from(["a", "b", "c"]), unique=True).map(tuple)
STEPS = st.lists(st.tuples(st.booleans(), st.integers(0, 5), st.sampled_from(["x", "y"]), CLAIMS), max_size=30)


@given(STEPS)
def test_claims_that_several_pods_name_are_known_as_pods_come_and_go(steps):
    table, there = PendingTable(), dict[int, tuple[str, tuple[str, ...]]]()
    for number, (comes, which, namespace, claims) in enumerate(steps):
        if comes:
            wanted = Wanted(PodName(namespace, f"p{number}", uid=f"u{number}"), 0, 0, 0, volumes=claims)
            there[table.add(wanted, -1)] = namespace, claims
        elif there:
            slot = list(there)[which % len(there)]
            del there[slot]
            table.remove(slot)
    users: dict[tuple[str, str], set[int]] = {}
    for slot, (namespace, claims) in there.items():
        for claim in claims:
            users.setdefault((namespace, claim), set()).add(slot)
    assert table.arrays.sharing == {key: slots for key, slots in users.items() if len(slots) > 1}
