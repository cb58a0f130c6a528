"""Usage: one row a request."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

TEXT = sa.String(256)


def upgrade() -> None:
    op.create_table(
        "usage",
        sa.Column("source", sa.String(64), primary_key=True),
        sa.Column("sequence", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("at_s", sa.Double, nullable=False),
        sa.Column("day", sa.Integer, nullable=False),
        sa.Column("request_id", TEXT, nullable=False),
        sa.Column("tenant", TEXT, nullable=False),
        sa.Column("team", TEXT, nullable=False),
        sa.Column("project", TEXT, nullable=False),
        sa.Column("key_id", TEXT, nullable=False),
        sa.Column("model", TEXT, nullable=False),
        sa.Column("route", sa.String(16), nullable=False),
        sa.Column("tier_asked", sa.String(8), nullable=False),
        sa.Column("tier_served", sa.String(8), nullable=False),
        sa.Column("prompt_tokens", sa.BigInteger, nullable=False),
        sa.Column("cached_tokens", sa.BigInteger, nullable=False),
        sa.Column("analysis_tokens", sa.BigInteger, nullable=False),
        sa.Column("final_tokens", sa.BigInteger, nullable=False),
        sa.Column("gpu_s", sa.Double, nullable=False),
        sa.Column("cost", sa.Double, nullable=False),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.Column("ttft_s", sa.Double),
        sa.Column("duration_s", sa.Double, nullable=False),
    )
    op.create_index("ix_usage_tenant_at_s", "usage", ["tenant", "at_s"])
    op.create_index("ix_usage_at_s", "usage", ["at_s"])


def downgrade() -> None:
    op.drop_table("usage")
