"""One decision while it is made: the one object that every step of it works on."""

from dataclasses import dataclass

from tangram.decide.draft import Draft
from tangram.decide.journal import Journal
from tangram.decide.pool import Pool
from tangram.decide.queues.fairness import Turns
from tangram.decide.rivals import Rivals
from tangram.decide.scores import Scores
from tangram.snapshot.arrays import Snapshot


@dataclass(frozen=True, slots=True, eq=False)
class Decision:
    """What is true, what is left of it, and what has been decided so far.

    All that changes within a decision is in the journal, so that whatever is tried can be rolled back as a whole.
    """

    snapshot: Snapshot
    pool: Pool
    """What is left."""
    scores: Scores
    """What has been worked out of it for the shapes that wait."""
    turns: Turns
    """Whose turn it is, and what queues use by now."""
    draft: Draft
    """The plan so far."""
    rivals: Rivals
    """Who waits for the volume of one who goes."""

    @property
    def journal(self) -> Journal:
        """What is to be put back if what is being tried fails."""
        return self.pool.journal
