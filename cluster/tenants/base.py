"""The metadata that every table of the store belongs to: one schema, one chain of migrations."""

from sqlalchemy import MetaData
from sqlalchemy.orm import DeclarativeBase

NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}
"""How constraints are called, so that a migration can name them on SQLite and PostgreSQL alike."""


class Base(DeclarativeBase):
    """Every table derives from it."""

    metadata = MetaData(naming_convention=NAMES)
