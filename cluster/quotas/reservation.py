"""What was booked for a generation before its length was known, and how it is settled."""

from collections.abc import Sequence
from dataclasses import dataclass

from cluster.quotas.ledger import Change
from cluster.quotas.work import Work


@dataclass(slots=True)
class Reservation:
    """Of ``names``' books, in ``slot``."""

    names: Sequence[str]
    slot: int
    work: Work

    def grown(self, work: Work) -> Change:
        """It turns out to need ``work`` in all."""
        before, self.work = self.work, work
        return Change(
            self.slot,
            tokens=work.tokens - before.tokens,
            held=work.weighted - before.weighted,
            held_cost=work.cost - before.cost,
        )

    def settled(self, work: Work) -> Change:
        """It has ended, and ``work`` is what it really took."""
        return Change(
            self.slot,
            tokens=work.tokens - self.work.tokens,
            held=-self.work.weighted,
            held_cost=-self.work.cost,
            used=work.weighted,
            used_cost=work.cost,
        )
