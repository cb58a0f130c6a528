"""Responses that callers asked to be kept: the only content of requests in the store."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

TENANT = sa.String(256)
RESPONSE_ID = sa.String(128)


def upgrade() -> None:
    op.create_table(
        "responses",
        sa.Column("tenant", TENANT, primary_key=True),
        sa.Column("id", RESPONSE_ID, primary_key=True),
        sa.Column("previous_id", RESPONSE_ID),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("items_bytes", sa.BigInteger, nullable=False),
        sa.Column("input", sa.LargeBinary, nullable=False),
        sa.Column("output", sa.LargeBinary, nullable=False),
        sa.Column("response", sa.LargeBinary, nullable=False),
    )
    op.create_index(
        "ix_responses_tenant_created_at_size_bytes",
        "responses",
        ["tenant", "created_at", "size_bytes"],
    )


def downgrade() -> None:
    op.drop_table("responses")
