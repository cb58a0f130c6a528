"""The replicas that this gateway knows, and its connections to them.

The directory (Ray Serve) says who there is. A replica that has left it keeps its connection until
nothing of ours runs there.
"""

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import msgspec

from cluster.config import Tier
from cluster.steptime import StepModel
from deployments.engine.channel.client import Endpoint, EngineLink, LinkHandlers, LinkSettings
from deployments.engine.channel.frames import Load, Welcome
from deployments.router import RemoteLoad, Router, Traits


@dataclass(frozen=True)
class Member:
    """A replica as the directory lists it."""

    endpoint: Endpoint
    model: str
    pool: str
    tiers: frozenset[Tier]
    lends_to: frozenset[Tier]
    steps: StepModel


class Links:
    """What happens on a connection is told to ``handlers``; who comes and goes, to ``router``."""

    def __init__(self, router: Router, settings: LinkSettings, handlers: LinkHandlers) -> None:
        self._router = router
        self._settings = settings
        self._handlers = handlers
        self._members: Mapping[str, Member] = {}
        self._links: dict[str, EngineLink] = {}
        self._inexact: set[str] = set()
        self._closing: set[asyncio.Task[None]] = set()

    def __getitem__(self, replica_id: str) -> EngineLink:
        return self._links[replica_id]

    def __iter__(self) -> Iterator[EngineLink]:
        return iter(list(self._links.values()))

    # -------------------------------------------------------------- who comes and goes

    def update(self, members: Iterable[Member], now: float) -> None:
        """The replicas that exist now. New ones are connected to, gone ones get nothing new."""
        self._members = {member.endpoint.replica_id: member for member in members}
        for replica_id, member in self._members.items():
            if replica_id not in self._links:
                link = EngineLink(member.endpoint, self._settings, self._handlers)
                self._links[replica_id] = link
                link.on_hangup = self._on_hangup
                link.open()
        for replica in self._router.fleet:
            if replica.replica_id not in self._members:
                leaving = msgspec.structs.replace(replica.load, draining=True)
                self._router.on_load(replica.replica_id, leaving, now)

    def retire(self, now: float) -> None:
        """Close those to replicas that have left the directory, once nothing runs on them."""
        for replica_id in [each for each in self._links if each not in self._members]:
            replica = self._router.fleet.get(replica_id)
            if replica is None or not replica.flights:
                closing = asyncio.create_task(self._links.pop(replica_id).close())
                self._closing.add(closing)
                closing.add_done_callback(self._closing.discard)
                self._inexact.discard(replica_id)
                self._router.on_replica_lost(replica_id, now)

    async def close(self) -> None:
        links, self._links = list(self._links.values()), {}
        for link in links:
            await link.close()

    def join(self, link: EngineLink, welcome: Welcome, now: float) -> Member | None:
        """The replica has let us in. None if it has left the directory meanwhile."""
        replica_id = link.endpoint.replica_id
        member = self._members.get(replica_id)
        if member is None:
            return None
        self._router.on_replica_joined(
            Traits(
                replica_id,
                member.model,
                member.pool,
                member.tiers,
                member.lends_to,
                welcome.max_num_seqs,
                welcome.max_model_len,
                welcome.kv_tokens,
                member.steps,
            )
        )
        if welcome.exact_sampling:
            self._inexact.discard(replica_id)
        else:
            self._inexact.add(replica_id)
        self._router.on_load(replica_id, self.load(link, welcome.load, (0, 0, 0)), now)
        return member

    def _on_hangup(self, link: EngineLink) -> None:
        """Nothing more goes there, while the link finds out what has happened."""
        replica = self._router.fleet.get(link.endpoint.replica_id)
        if replica is not None and self.holds(link):
            replica.refuse()

    # -------------------------------------------------------------- views

    def holds(self, link: EngineLink) -> bool:
        """Whether we have not closed it."""
        return self._links.get(link.endpoint.replica_id) is link

    def is_up(self, replica_id: str) -> bool:
        """Whether there is a connection to the replica."""
        link = self._links.get(replica_id)
        return link is not None and link.is_up

    def is_exact(self, replica_id: str) -> bool:
        """Whether it goes on with the very tokens that another replica would have written."""
        return replica_id not in self._inexact

    def of_model(self, model: str) -> list[EngineLink]:
        """The connections to the replicas of ``model``."""
        members = (each for each in self._members.values() if each.model == model)
        known = (self._links.get(each.endpoint.replica_id) for each in members)
        return [link for link in known if link is not None]

    def load(self, link: EngineLink, load: Load, ours: tuple[int, int, int]) -> RemoteLoad:
        """What a replica says of its load. One that has left the directory gets nothing new,
        whatever it says itself."""
        draining = load.draining or link.endpoint.replica_id not in self._members
        return RemoteLoad(
            load.running,
            load.waiting,
            load.kv_use,
            load.step_s,
            draining,
            load.by_tier,
            ours,
            load.steps,
        )

    def news_ages_s(self, now: float) -> dict[tuple[str, str], float]:
        """The oldest load report of each (model, pool)."""
        ages_s: dict[tuple[str, str], float] = {}
        for replica in self._router.fleet:
            key = replica.traits.model, replica.traits.pool
            link = self._links.get(replica.replica_id)
            if link is not None:
                ages_s[key] = max(ages_s.get(key, 0.0), link.silent_s(now))
        return ages_s
