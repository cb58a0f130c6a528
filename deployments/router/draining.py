"""Which requests a replica that is to be left finishes itself, and which move to another."""

from deployments.router.fleet import Flight, Replica


class Drains:
    """``finish_s``: what is predicted to end within so many seconds from the start stays."""

    def __init__(self, finish_s: float) -> None:
        self.finish_s = finish_s
        self._began_s: dict[str, float] = {}

    def to_move(self, replica: Replica, now: float) -> list[Flight]:
        """Those that should go elsewhere, the longest first. As time passes, those that were
        expected to end by now are among them."""
        began_s = self._began_s.setdefault(replica.replica_id, now)
        left_s = max(0.0, began_s + self.finish_s - now)
        step_s = replica.load.step_s or replica.next_step_s
        staying = [
            (step_s * (flight.predicted - flight.emitted), flight)
            for flight in replica.flights.values()
        ]
        leaving = [(its_s, flight) for its_s, flight in staying if left_s <= 0.0 or its_s > left_s]
        return [flight for _, flight in sorted(leaving, key=lambda each: -each[0])]

    def keep(self, replica_ids: set[str]) -> None:
        """Only these are being left now."""
        for replica_id in self._began_s.keys() - replica_ids:
            del self._began_s[replica_id]
