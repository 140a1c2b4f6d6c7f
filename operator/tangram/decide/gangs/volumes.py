"""Claims that members of gangs share: which volume each gets is known only once it has one."""

from collections import Counter

import numpy as np

from tangram.decide.decision import Decision


def promised_to_others(decision: Decision, gang: int) -> bool:
    """Whether there are no more volumes for a claim that members of the gang share than other gangs are going to take,
    by this decision or an earlier one: it might be left with none, and others would leave for it in vain."""
    snapshot, draft, pending = decision.snapshot, decision.draft, decision.snapshot.pending
    looked_for = snapshot.topology.volumes
    mine = looked_for.get(gang, ())
    if not mine or len(looked_for) == 1:
        return False
    going = [*(one.slot for one in draft.placed), *draft.claimants]
    going += np.flatnonzero(pending.waiting & ((pending.claim >= 0) | (pending.nominated >= 0))).tolist()
    others = set(pending.gang[going].tolist()) - {gang}
    taken = Counter(storage_class for one in others for storage_class, _ in looked_for.get(one, ()))
    return any(0 < number <= taken[storage_class] for storage_class, number in mine)
