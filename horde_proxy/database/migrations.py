"""Schema versions, and the migrations from one to the next.

An owner of tables declares a Schema: a list of functions, each of which takes the tables from one
version to the next. The length of the list is the current version. A released migration never
changes. Several owners may share one database, so each has its own version.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy import BigInteger, Column, Connection, MetaData, Table, Text, inspect, select
from sqlalchemy.schema import CreateTable

from horde_proxy.database.errors import DatabaseError

Migration = Callable[[Connection], None]

VERSIONS = Table(
    "schema_versions",
    MetaData(),
    Column("owner", Text, primary_key=True),
    Column("version", BigInteger, nullable=False),
)


@dataclass(frozen=True)
class Schema:
    """The tables of one owner, e.g. "ledger".

    `unversioned` names the tables of a release that did not store versions yet: a database with
    all of them, and no version, is at version 1.
    """

    owner: str
    migrations: Sequence[Migration]
    unversioned: Sequence[str] = ()

    @property
    def version(self) -> int:
        """The current version, which this program works with."""
        return len(self.migrations)


def _copy_nothing(schema: Schema, version: int) -> None:
    """For PostgreSQL: its administrator makes the backups."""


def upgrade(
    connection: Connection,
    schema: Schema,
    database: str,
    copy: Callable[[Schema, int], None] = _copy_nothing,
) -> None:
    """Bring the owner's tables to the schema's version, within the caller's transaction.

    `copy` is called with the old version before existing tables are changed. `database` is the
    database's name in errors. Raises DatabaseError if the tables are newer than this program.
    """
    # Part of the transaction, so that a refused or failed upgrade leaves no trace.
    connection.execute(CreateTable(VERSIONS, if_not_exists=True))
    known = _known_version(connection, schema)
    version = known if known is not None else _version_of_unversioned(connection, schema)
    if version > schema.version:
        raise DatabaseError(
            f"The database {database} was written by a newer horde-proxy: its {schema.owner} "
            f"tables have version {version}, this program knows {schema.version}. Install the "
            "newer horde-proxy again, or restore the copy that was made before the upgrade."
        )
    if 0 < version < schema.version:
        copy(schema, version)
    for migration in schema.migrations[version:]:
        migration(connection)
    # A current database is only read: most processes find nothing to change.
    if known is None:
        connection.execute(VERSIONS.insert(), {"owner": schema.owner, "version": schema.version})
    elif known < schema.version:
        is_ours = VERSIONS.c.owner == schema.owner
        connection.execute(VERSIONS.update().where(is_ours).values(version=schema.version))


def _known_version(connection: Connection, schema: Schema) -> int | None:
    statement = select(VERSIONS.c.version).where(VERSIONS.c.owner == schema.owner)
    return connection.execute(statement).scalar()


def _version_of_unversioned(connection: Connection, schema: Schema) -> int:
    """1 for the tables of a release that stored no versions; 0 if there are no tables yet."""
    tables = set(inspect(connection).get_table_names())
    return int(bool(schema.unversioned) and tables.issuperset(schema.unversioned))
