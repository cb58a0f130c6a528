"""A simulated cluster whose books are looked at while it runs."""

from collections import Counter

import pytest

from autoscaling.simulator.world import World
from cluster.config import TIERS


class Checked(World):
    """A run that is checked after every event."""

    def check(self) -> None:
        placed = 0
        for gateway in self.gateways:
            router = gateway.router
            flights = [each for replica in router.fleet for each in replica.flights]
            placed += len(flights)
            # No request is lost, and none is in two places.
            assert Counter(flights).keys() <= gateway.streams.keys()
            assert len(set(flights)) == len(flights)
            held = len(flights) + router.waiting + router.displaced
            assert held == len(gateway.streams)
            for queue in router.queues.values():
                assert queue.unsettled == len(flights)
                for tier in TIERS:
                    retried = sum(
                        stream.request.attempts > 0 and stream.request.request_id in queue
                        for stream in gateway.streams.values()
                    )
                    assert queue.length(tier) <= queue.limits[tier].max_queued + retried
            for replica in router.fleet:
                reserved = sum(each.reserved_kv for each in replica.flights.values())
                assert replica.reserved_kv == pytest.approx(reserved, abs=1e-6)
                assert min(replica.own) >= 0
                assert replica.awaiting_prefill >= 0
        for replica in self.replicas:
            if replica.up:
                assert min(min(each) for each in replica.by_gateway) >= 0
                assert 0 <= replica.engine.cache.free <= replica.engine.cache.total
        ended = sum(outcome.status != "unfinished" for outcome in self.outcomes)
        assert self.open == len(self.outcomes) - ended

    def check_end(self) -> None:
        """All that was asked for has come to an end, and nothing is held any more."""
        assert Counter(outcome.status for outcome in self.outcomes)["unfinished"] == 0
        for gateway in self.gateways:
            assert not gateway.streams
            for replica in gateway.router.fleet:
                assert (replica.own, replica.reserved_kv) == (
                    [0, 0, 0],
                    pytest.approx(0.0, abs=1e-6),
                )
        for replica in self.replicas:
            if replica.up:
                assert not replica.engine.busy
                assert all(each == [0, 0, 0] for each in replica.by_gateway)
        for outcome in self.outcomes:
            asked = min(outcome.arrival.output_tokens, outcome.arrival.max_tokens)
            if outcome.status == "finished":
                assert outcome.tokens == asked
                assert outcome.first_token_s <= outcome.first_answer_s <= outcome.ended_s
                assert outcome.ttft_s > 0.0
            else:
                assert outcome.tokens <= asked
