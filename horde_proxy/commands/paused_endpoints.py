"""The paused endpoints for `horde-proxy check`, as the proxy keeps them. It changes nothing."""

from __future__ import annotations

from collections.abc import Iterator

from horde_proxy.app.pauses import in_database
from horde_proxy.commands.findings import Finding
from horde_proxy.config import Config
from horde_proxy.database.engine import Database
from horde_proxy.database.errors import DatabaseError
from horde_proxy.database.files import database_path, schema_versions
from horde_proxy.printable import without_login
from horde_proxy.web.form_filters import day

_OWNER = "pauses"
"""The owner of their table among the schema versions."""


def check_pauses(settings: Config) -> Iterator[Finding]:
    """One finding for each endpoint that is paused, which is no fault."""
    url = settings.access.database_url() or settings.store.database_url()
    if url is None:
        return
    try:
        for name, since in _paused(url).items():
            yield Finding(f"endpoint {name}: paused since {day(since)}, so it gets no requests")
    except DatabaseError as exc:
        yield Finding(
            f"endpoints: whether one is paused cannot be read from {without_login(url)}: {exc}",
            "look at its owner and mode, or at its server",
        )


def _paused(url: str) -> dict[str, float]:
    path = database_path(url)
    # A file that the proxy has not made its table in is not touched.
    if path is not None and not (path.exists() and _OWNER in schema_versions(path)):
        return {}
    database = Database(url, setting="store.database")
    try:
        return in_database(database).paused()
    finally:
        database.close()
