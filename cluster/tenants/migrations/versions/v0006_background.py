"""Responses that nobody waits for on a connection: what was asked, until it is answered."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "background_responses",
        sa.Column("id", sa.String(128), primary_key=True),
        sa.Column("tenant", sa.String(256), nullable=False),
        sa.Column("previous_id", sa.String(128)),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("owner", sa.JSON, nullable=False),
        sa.Column("input", sa.LargeBinary, nullable=False),
        sa.Column("request", sa.LargeBinary, nullable=False),
        sa.Column("shown", sa.LargeBinary, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("holder", sa.String(128), nullable=False),
        sa.Column("fence", sa.Integer, nullable=False),
        sa.Column("leased_until", sa.Double, nullable=False),
    )
    op.create_index("ix_background_responses_tenant", "background_responses", ["tenant"])
    op.create_index("ix_background_responses_holder", "background_responses", ["holder"])
    op.create_index(
        "ix_background_responses_leased_until", "background_responses", ["leased_until"]
    )


def downgrade() -> None:
    op.drop_table("background_responses")
