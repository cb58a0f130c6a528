"""Many replicas side by side, as numpy columns: what a placement reads of each, in one go."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from cluster.config import Tier

if TYPE_CHECKING:
    from deployments.router.fleet import Replica

Column = np.ndarray[tuple[int], np.dtype[np.float64]]
Numbers = np.ndarray[tuple[int], np.dtype[np.int64]]
Flags = np.ndarray[tuple[int], np.dtype[np.bool_]]


class Columns:
    """Of ``replicas``, which stay the same ones: a row each, in their order.

    The columns are named like the attributes of ``Replica``. ``seats`` is 0 where one refuses.
    """

    def __init__(self, replicas: Sequence["Replica"]) -> None:
        self.replicas = replicas
        self._rows = {each.replica_id: row for row, each in enumerate(replicas)}
        rows = len(replicas)
        self.next_step_s: Column = np.zeros(rows)
        self.floor_step_s: Column = np.zeros(rows)
        self.crowding_s: Column = np.zeros(rows)
        self.in_flight: Column = np.zeros(rows)
        self.awaiting_prefill: Column = np.zeros(rows)
        self.kv_left: Column = np.zeros(rows)
        self.seats: Column = np.zeros(rows)
        self.tiers_here: Numbers = np.zeros(rows, np.int64)
        self.prefill_token_s: Column = np.array([each.prefill_token_s for each in replicas])
        self._lent: dict[Tier, Flags] = {}
        self._homes: Mapping[str, int] = {}
        self._home: Numbers = np.zeros(0, np.int64)
        self.update(replicas)

    def update(self, changed: Iterable["Replica"]) -> None:
        """Read these replicas again; any that have no row here do not matter."""
        for each in changed:
            row = self._rows.get(each.replica_id)
            if row is None:
                continue
            self.next_step_s[row] = each.next_step_s
            self.floor_step_s[row] = each.floor_step_s
            self.crowding_s[row] = each.crowding_s
            self.in_flight[row] = each.in_flight
            self.awaiting_prefill[row] = each.awaiting_prefill
            self.kv_left[row] = each.kv_left
            self.seats[row] = 0 if each.refusing else each.seats
            self.tiers_here[row] = each.tiers_here

    def lent(self, tier: Tier) -> Flags:
        """Which of them the tier may only borrow."""
        found = self._lent.get(tier)
        if found is None:
            found = self._lent[tier] = np.array(
                [tier not in each.traits.tiers for each in self.replicas]
            )
        return found

    def home(self, homes: Mapping[str, int]) -> Numbers:
        """``homes`` (by replica id) in the rows' order, -1 where one has none. A plan is never
        changed but replaced by another."""
        if homes is not self._homes:
            self._homes = homes
            self._home = np.array([homes.get(name, -1) for name in self._rows])
        return self._home

    def spread(self, by_id: Mapping[str, int]) -> Numbers:
        """These numbers in the rows' order, 0 for replicas without one."""
        return np.array([by_id.get(name, 0) for name in self._rows])
