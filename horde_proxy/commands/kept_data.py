"""What of an installation must last, and where it is: for backups, and for `check`.

It knows the settings and the folders, and reads no content. What can be fetched again, such as
copies of references, is not part of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from horde_proxy import folders
from horde_proxy.app import runtime
from horde_proxy.config import Config
from horde_proxy.database.files import database_path

Kind = Literal["database", "settings", "key", "file"]


@dataclass(frozen=True)
class KeptFile:
    """A file that lasts. `name` is what a backup calls it."""

    name: str
    kind: Kind
    path: Path


@dataclass(frozen=True)
class DatabaseServer:
    """A database of PostgreSQL, which its own tools save. `settings` are those that name it."""

    settings: tuple[str, ...]
    url: str

    @property
    def shown(self) -> str:
        """The URL without its password, as pg_dump takes it: the password is in ~/.pgpass."""
        parts = urlsplit(self.url)
        user, _, host = parts.netloc.rpartition("@")
        name = user.partition(":")[0]
        shown = parts._replace(scheme="postgresql", netloc=f"{name}@{host}" if name else host)
        return shown._replace(query="").geturl()

    def advice(self) -> str:
        """What to do for a backup of it."""
        file = f"{self.settings[0].partition('.')[0]}.dump"
        return (
            f"{' and '.join(self.settings)}: on PostgreSQL, and not in this file. Save it with\n"
            f"  pg_dump --format=custom --file={file} '{self.shown}'\n"
            f"and bring it back with\n"
            f"  pg_restore --clean --if-exists --dbname='{self.shown}' {file}"
        )


def database_urls(settings: Config) -> dict[str, str]:
    """The URLs of the databases that are kept, by the settings that name them."""
    private = settings.private_horde
    urls = {
        "access.database": settings.access.database_url(),
        "store.database": settings.store.database_url(),
        "stats.history_database": settings.stats.history_url(),
        # `horde-proxy horde` needs no setting: where it ran, there is a file.
        "private_horde.database": private.database_url(),
    }
    return {name: url for name, url in urls.items() if url is not None}


def database_files(settings: Config) -> dict[Path, str]:
    """The files of SQLite that there are, with the settings that name them."""
    files = {database_path(url): name for name, url in database_urls(settings).items()}
    return {path: name for path, name in files.items() if path is not None and path.exists()}


def database_servers(settings: Config) -> list[DatabaseServer]:
    """The databases of PostgreSQL, each with the settings that name it."""
    names: dict[str, list[str]] = {}
    for name, url in database_urls(settings).items():
        if database_path(url) is None:
            names.setdefault(url, []).append(name)
    return [DatabaseServer(tuple(settings), url) for url, settings in names.items()]


def kept_files(settings: Config, service_settings: Path | None = None) -> list[KeptFile]:
    """The files that there are, databases first. `service_settings` is a service's environment."""
    return list(_existing(settings, service_settings))


def _existing(settings: Config, service_settings: Path | None) -> Iterator[KeptFile]:
    for path, setting in database_files(settings).items():
        # The sections are distinct, the names of the files need not be.
        yield KeptFile(f"databases/{setting.partition('.')[0]}.db", "database", path)
    key = settings.private_horde.owner_key_file()
    if key is not None and key.exists():
        yield KeptFile("owner.key", "key", key)
    # The operator's file and the page's may have the same name.
    for file, part in zip(settings.files, ("settings", "page-settings"), strict=False):
        if Path(file.path).is_file():
            path = Path(file.path).absolute()
            yield KeptFile(f"{part}/{path.name}", "settings", path)
    if service_settings is not None and service_settings.is_file():
        yield KeptFile(f"environment/{service_settings.name}", "settings", service_settings)
    for path, setting in _secret_files(settings).items():
        yield KeptFile(f"secrets/{setting}", "key", path)
    for name, folder in _folders().items():
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                yield KeptFile(f"{name}/{path.relative_to(folder)}", "file", path.absolute())


def _secret_files(settings: Config) -> dict[Path, str]:
    """The files with secrets, each with one of the settings that name it."""
    names = {
        "webhooks.secret_file": settings.webhooks.secret_file,
        "notices.secret_file": settings.notices.secret_file,
        "notices.ntfy_token_file": settings.notices.ntfy_token_file,
    }
    paths = {Path(path).absolute(): setting for setting, path in names.items() if path}
    return {path: setting for path, setting in paths.items() if path.is_file()}


def _folders() -> Mapping[str, Path]:
    """The folders whose files last: penalties, lists of models of servers that sleep, pictures."""
    return {
        "penalties": runtime.penalties_folder(),
        "models": runtime.models_folder(),
        "pictures": runtime.pictures_folder(),
    }


def relative_place(path: Path) -> tuple[str | None, str]:
    """(the folder, the path within it): another user or host has its folders elsewhere.

    (None, the whole path) for what is in neither the state folder nor the cache folder.
    """
    for name, folder in (("state", folders.state_folder()), ("cache", folders.cache_folder())):
        if path.is_relative_to(folder.absolute()):
            return name, str(path.relative_to(folder.absolute()))
    return None, str(path)


def place_of(folder: str | None, path: str) -> Path:
    """Where a file with this place belongs here. The opposite of `relative_place`."""
    if folder is None:
        return Path(path)
    return (folders.state_folder() if folder == "state" else folders.cache_folder()) / path


def known_versions() -> dict[str, int]:
    """The version of each owner's tables that this program knows."""
    from horde_proxy.ledger.schema import SCHEMA as LEDGER
    from horde_proxy.notices.sent_in_database import SCHEMA as NOTICES
    from horde_proxy.private_horde.store.tables import SCHEMA as HORDE
    from horde_proxy.stats.history.schema import SCHEMA as HISTORY
    from horde_proxy.store.batch_schema import SCHEMA as BATCHES
    from horde_proxy.store.generations import SCHEMA as GENERATIONS
    from horde_proxy.store.jobs import SCHEMA as JOBS
    from horde_proxy.store.schema import SCHEMA as ANSWERS
    from horde_proxy.web.session_database import SCHEMA as PAGE

    schemas = (LEDGER, NOTICES, HORDE, HISTORY, BATCHES, GENERATIONS, JOBS, ANSWERS, PAGE)
    return {schema.owner: schema.version for schema in schemas}


def newer_tables(versions: Mapping[str, int]) -> str:
    """The tables that a newer release has written, with their versions; "" for none."""
    known = known_versions()
    newer = [
        f"{owner} {version} (known: {known[owner]})"
        for owner, version in versions.items()
        if owner in known and version > known[owner]
    ]
    return ", ".join(newer)
