"""Tenants whose requests go ahead of all others'."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # With a default, so that an older program beside this one can still make tenants.
    op.add_column(
        "tenants", sa.Column("priority", sa.Boolean, nullable=False, server_default=sa.false())
    )


def downgrade() -> None:
    op.drop_column("tenants", "priority")
