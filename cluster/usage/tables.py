"""The store's table of usage: one row a request, written once."""

from sqlalchemy import BigInteger, Double, Index, Integer, String
from sqlalchemy.orm import Mapped, mapped_column

from cluster.tenants.base import Base
from cluster.usage.record import MAX_TEXT


class Usage(Base):
    """``source`` is a gateway's queue and ``sequence`` counts in it: a record that is written again
    after a crash meets its own key. ``day`` counts days (UTC) since 1970."""

    __tablename__ = "usage"
    __table_args__ = (
        Index("ix_usage_tenant_at_s", "tenant", "at_s"),
        Index("ix_usage_at_s", "at_s"),
    )

    source: Mapped[str] = mapped_column(String(64), primary_key=True)
    sequence: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    at_s: Mapped[float] = mapped_column(Double)
    day: Mapped[int] = mapped_column(Integer)
    request_id: Mapped[str] = mapped_column(String(MAX_TEXT))
    tenant: Mapped[str] = mapped_column(String(MAX_TEXT))
    team: Mapped[str] = mapped_column(String(MAX_TEXT))
    project: Mapped[str] = mapped_column(String(MAX_TEXT))
    key_id: Mapped[str] = mapped_column(String(MAX_TEXT))
    model: Mapped[str] = mapped_column(String(MAX_TEXT))
    route: Mapped[str] = mapped_column(String(16))
    tier_asked: Mapped[str] = mapped_column(String(8))
    tier_served: Mapped[str] = mapped_column(String(8))
    prompt_tokens: Mapped[int] = mapped_column(BigInteger)
    cached_tokens: Mapped[int] = mapped_column(BigInteger)
    analysis_tokens: Mapped[int] = mapped_column(BigInteger)
    final_tokens: Mapped[int] = mapped_column(BigInteger)
    gpu_s: Mapped[float] = mapped_column(Double)
    cost: Mapped[float] = mapped_column(Double)
    outcome: Mapped[str] = mapped_column(String(16))
    ttft_s: Mapped[float | None] = mapped_column(Double)
    duration_s: Mapped[float] = mapped_column(Double)
