"""Tenants, teams, projects, keys, limits, the audit log, and the counter of changes."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

NAME = sa.String(64)
SUBJECT = sa.String(72)
TIER = sa.String(16)
KEY_ID = sa.String(12)

REFUSED = "the audit log is append-only"


def upgrade() -> None:
    _tenants()
    _keys()
    _limits()
    op.create_table(
        "audit",
        sa.Column(
            "id",
            sa.BigInteger().with_variant(sa.Integer, "sqlite"),
            primary_key=True,
            autoincrement=True,
        ),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("who", sa.String(200), nullable=False),
        sa.Column("action", sa.String(64), nullable=False),
        sa.Column("subject", SUBJECT, nullable=False),
        sa.Column("detail", sa.JSON, nullable=False),
        sa.Column("request_from", sa.Text, nullable=False),
    )
    op.create_index("ix_audit_at", "audit", ["at"])
    _append_only()
    op.create_table(
        "secret",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("mark", sa.String(64), nullable=False),
    )
    changes = op.create_table(
        "changes",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("number", sa.BigInteger, nullable=False),
    )
    op.bulk_insert(changes, [{"id": 1, "number": 0}])


def _tenants() -> None:
    op.create_table(
        "tenants",
        sa.Column("name", NAME, primary_key=True),
        sa.Column("weight", sa.Double, nullable=False),
        sa.Column("tiers", sa.JSON, nullable=False),
        sa.Column("models", sa.JSON),
        sa.Column("default_tier", TIER),
        sa.Column("cache_group", NAME, nullable=False),
        sa.Column("enabled", sa.Boolean, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
    )
    op.create_table(
        "teams",
        sa.Column("tenant", NAME, primary_key=True),
        sa.Column("name", NAME, primary_key=True),
        sa.ForeignKeyConstraint(
            ["tenant"], ["tenants.name"], name="fk_teams_tenant", ondelete="CASCADE"
        ),
    )
    op.create_table(
        "projects",
        sa.Column("tenant", NAME, primary_key=True),
        sa.Column("team", NAME, primary_key=True),
        sa.Column("name", NAME, primary_key=True),
        sa.ForeignKeyConstraint(
            ["tenant"], ["tenants.name"], name="fk_projects_tenant", ondelete="CASCADE"
        ),
    )


def _keys() -> None:
    op.create_table(
        "keys",
        sa.Column("id", KEY_ID, primary_key=True),
        sa.Column("tenant", NAME, nullable=False),
        sa.Column("team", NAME, nullable=False),
        sa.Column("project", NAME, nullable=False),
        sa.Column("label", sa.String(200), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("scopes", sa.JSON, nullable=False),
        sa.Column("tiers", sa.JSON),
        sa.Column("models", sa.JSON),
        sa.Column("default_tier", TIER),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("expires_at", sa.Double),
        sa.Column("revoked_at", sa.Double),
        sa.Column("replaced_by", KEY_ID),
        sa.ForeignKeyConstraint(
            ["tenant"], ["tenants.name"], name="fk_keys_tenant", ondelete="CASCADE"
        ),
    )
    op.create_index("ix_keys_tenant", "keys", ["tenant"])


def _limits() -> None:
    op.create_table(
        "limits",
        sa.Column("subject", SUBJECT, primary_key=True),
        sa.Column("tier", TIER, primary_key=True),
        sa.Column("requests_per_minute", sa.BigInteger),
        sa.Column("tokens_per_minute", sa.BigInteger),
        sa.Column("concurrent_requests", sa.BigInteger),
        sa.Column("tokens_per_day", sa.BigInteger),
        sa.Column("tokens_per_month", sa.BigInteger),
        sa.Column("cost_per_day", sa.Double),
        sa.Column("cost_per_month", sa.Double),
        sa.Column("soft_share", sa.Double, nullable=False),
    )


def _append_only() -> None:
    """The database refuses; not only our code."""
    if op.get_bind().dialect.name == "sqlite":
        for verb in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER audit_no_{verb.lower()} BEFORE {verb} ON audit "
                f"BEGIN SELECT RAISE(ABORT, '{REFUSED}'); END"
            )
        return
    op.execute(
        "CREATE FUNCTION audit_refuse() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE EXCEPTION '{REFUSED}'; END $$"
    )
    op.execute(
        "CREATE TRIGGER audit_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit "
        "FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse()"
    )


def downgrade() -> None:
    for table in ("changes", "secret", "audit", "limits", "keys", "projects", "teams", "tenants"):
        op.drop_table(table)
    if op.get_bind().dialect.name != "sqlite":
        op.execute("DROP FUNCTION audit_refuse()")
