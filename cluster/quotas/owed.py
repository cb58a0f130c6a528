"""Changes on their way to the books of all gateways: merged, numbered, sent until they arrive."""

from collections.abc import Iterable

from cluster.quotas.ledger import WINDOW_SLOTS, Change


class Owed:
    """``take`` gives what is to be sent, with its number, until ``arrived``: the books take a
    number once, so sending it again does no harm."""

    def __init__(self) -> None:
        self._merged: dict[tuple[str, int], Change] = {}
        self._sent: list[tuple[str, Change]] = []
        self._sequence = 0

    def __bool__(self) -> bool:
        return bool(self._merged or self._sent)

    def add(self, names: Iterable[str], change: Change) -> None:
        for name in names:
            key = name, change.slot
            known = self._merged.get(key)
            self._merged[key] = change if known is None else _sum(known, change)

    def take(self) -> tuple[int, list[tuple[str, Change]]]:
        """Number and changes to send now: again those that did not arrive, if there are any."""
        if not self._sent and self._merged:
            self._sent = [(name, change) for (name, _), change in self._merged.items()]
            self._merged = {}
            self._sequence += 1
        return self._sequence, self._sent

    def arrived(self) -> None:
        self._sent = []

    def forget_held(self) -> None:
        """What is held is told as a whole instead."""
        for key, change in self._merged.items():
            self._merged[key] = _only(change, window=True)

    def forget_window(self) -> None:
        """The books were lost: the window is told as a whole, and nothing of what was sent is
        left."""
        for name, change in self._sent:
            self.add([name], change)
        self._sent = []
        for key, change in self._merged.items():
            self._merged[key] = _only(change, window=False)

    def prune(self, slot: int) -> None:
        """While nobody takes them, many slots add up: merge those that have left the window."""
        oldest = slot - WINDOW_SLOTS
        for name, old in [key for key in self._merged if key[1] < oldest]:
            change = _only(self._merged.pop((name, old)), window=False)
            # In a slot that is out of the window, too: a day's budget is all that it moves.
            self.add([name], _moved(change, oldest))

    def used(self) -> dict[str, tuple[float, float]]:
        """Of each name, what of its budgets is still on its way: weighted tokens, cost."""
        found: dict[str, tuple[float, float]] = {}
        changes = [(name, change) for (name, _), change in self._merged.items()]
        for name, change in (*changes, *self._sent):
            tokens, cost = found.get(name, (0.0, 0.0))
            found[name] = tokens + change.used, cost + change.used_cost
        return found


def _sum(a: Change, b: Change) -> Change:
    return Change(
        a.slot,
        a.requests + b.requests,
        a.tokens + b.tokens,
        a.concurrent + b.concurrent,
        a.held + b.held,
        a.held_cost + b.held_cost,
        a.used + b.used,
        a.used_cost + b.used_cost,
    )


def _only(change: Change, *, window: bool) -> Change:
    """The change without what it says of held things, and of the window unless that is kept."""
    requests, tokens = (change.requests, change.tokens) if window else (0, 0)
    return Change(change.slot, requests, tokens, used=change.used, used_cost=change.used_cost)


def _moved(change: Change, slot: int) -> Change:
    return Change(slot, used=change.used, used_cost=change.used_cost)
