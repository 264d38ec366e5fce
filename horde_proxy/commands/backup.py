"""`horde-proxy backup` and `restore`: everything that must last, in one file.

backup    copies beside the running proxy -> check each -> one tar, read again -> FILE
restore   check FILE -> refuse while somebody uses the databases -> write beside -> rename
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from stat import S_IMODE
from tempfile import TemporaryDirectory

import click

from horde_proxy.commands.backup_archive import (
    BadBackup,
    Manifest,
    Part,
    check_archive,
    digest_of,
    extract,
    write_archive,
)
from horde_proxy.commands.console import echo, say
from horde_proxy.commands.kept_data import (
    KeptFile,
    database_servers,
    kept_files,
    newer_tables,
    place_of,
    relative_place,
)
from horde_proxy.commands.options import config_option, load_settings
from horde_proxy.commands.running_service import ServicePlaces, use_service
from horde_proxy.database.errors import DatabaseError
from horde_proxy.database.files import (
    SIDE_FILES,
    copy_database,
    is_open_elsewhere,
    quick_check,
    schema_versions,
)
from horde_proxy.folders import StateInUse, lock_state
from horde_proxy.version import VERSION

_CHECK_SECONDS = 3600.0
"""For the check of one copy: a backup that is not checked is none, however large."""
_STOP = "stop the proxy first (systemctl stop horde-proxy horde-proxy.socket), and nothing is lost"
_REPLACED = ".replaced"
"""What a restore appends to the name of a file that was there before."""


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@config_option
def backup(file: Path, path: str | None) -> None:
    """Save keys, usage, stored answers, the private horde, history and settings to FILE.

    The proxy may run meanwhile. The file holds keys and prompts: it is made for its owner alone.
    """
    service = use_service(say)
    settings = load_settings(path)
    files = kept_files(settings, service.settings if service else None)
    servers = database_servers(settings)
    with _failures():
        if not files and not servers:
            raise click.ClickException("there is nothing to save yet: no database, no settings")
        _refuse_other_file(file)
        manifest = _save(file, files, [name for server in servers for name in server.settings])
    for part in manifest.parts:
        if part.kind != "file":
            echo(f"{part.name}  {part.bytes} bytes")
    others = sum(part.kind == "file" for part in manifest.parts)
    echo(f"{file}: {len(manifest.parts)} files, {others} of them pictures, lists and penalties")
    for server in servers:
        say(server.advice())


def _refuse_other_file(file: Path) -> None:
    """A backup takes the place of an older one and of no other file, in a folder that is there."""
    if not file.parent.is_dir():
        raise BadBackup(f"there is no folder {file.parent}: mkdir -p {file.parent}")
    if file.exists() and file.stat().st_size:
        try:
            check_archive(file)
        except BadBackup as exc:
            raise BadBackup(f"{exc}. It is not overwritten: choose another name") from exc


def _save(file: Path, files: Sequence[KeptFile], servers: Sequence[str]) -> Manifest:
    # Beside the file: there is room for it, and nobody else may look in.
    with TemporaryDirectory(prefix=".horde-proxy-", dir=file.absolute().parent) as folder:
        copies, parts = list[Path](), list[Part]()
        for number, kept in enumerate(files):
            copy = _copy(kept, Path(folder) / str(number))
            # A picture or a penalty may have ended since the files were listed.
            if copy is not None:
                copies.append(copy)
                parts.append(_part(kept, copy))
        created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        manifest = Manifest(VERSION, created, tuple(parts), tuple(servers))
        write_archive(file.absolute(), manifest, copies)
    return manifest


def _copy(kept: KeptFile, copy: Path) -> Path | None:
    """A copy that no longer changes. Raises DatabaseError for a damaged database."""
    if kept.kind == "database":
        copy_database(kept.path, copy)
        _refuse_damaged(copy, str(kept.path))
        return copy
    try:
        content = kept.path.read_bytes()
    except FileNotFoundError:
        return None
    copy.write_bytes(content)
    return copy


def _part(kept: KeptFile, copy: Path) -> Part:
    size, digest = digest_of(copy)
    versions = schema_versions(copy) if kept.kind == "database" else {}
    place, mode = relative_place(kept.path), S_IMODE(kept.path.stat().st_mode)
    return Part(kept.name, kept.kind, *place, size, digest, versions, mode)


def _refuse_damaged(copy: Path, name: str) -> None:
    damage = quick_check(copy, _CHECK_SECONDS)
    if damage:
        raise DatabaseError(
            f"The database {name} is damaged: {damage}. Restore an older backup, or let "
            f"`sqlite3 {name} .recover` save what can be read"
        )


@click.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--force", is_flag=True, help=f"Overwrite; what was there is kept as *{_REPLACED}.")
@click.option(
    "--list", "is_list", is_flag=True, help="Check the file and list it; restore nothing."
)
def restore(file: Path, force: bool, is_list: bool) -> None:
    """Bring back what `backup` saved to FILE, after a check of all of it.

    Stop the proxy first. Restore only files that you made: settings may run commands.
    """
    service = use_service(say)
    with _failures():
        manifest = check_archive(file)
        _refuse_newer(manifest)
        if is_list:
            _show(manifest)
            return
        targets = {part.name: _target(part) for part in manifest.parts}
        here = {name: target for name, target in targets.items() if target is not None}
        with _alone(list(here.values()), service):
            _refuse_to_overwrite(list(here.values()), force)
            _restore(file, manifest, here)
    for part in manifest.parts:
        _say_what_became(part, targets[part.name])
    for setting in manifest.servers:
        say(f"{setting}: on PostgreSQL, and not in this file: bring it back with pg_restore")


def _show(manifest: Manifest) -> None:
    echo(f"made by horde-proxy {manifest.horde_proxy} at {manifest.created}; all of it is whole")
    for part in manifest.parts:
        echo(f"{part.name}  {part.bytes} bytes  {place_of(part.folder, part.path)}")


def _say_what_became(part: Part, target: Path | None) -> None:
    if target is None:
        say(
            f"{part.name}: was handed over by systemd from a file that is not known here; take it "
            f"out with `tar xf FILE {part.name}` and put it where LoadCredential= says"
        )
    elif part.kind != "file":
        echo(f"{target}")


def _target(part: Part) -> Path | None:
    """Where a part belongs; None for a credential of systemd, which lasts as long as its unit."""
    target = place_of(part.folder, part.path)
    return None if target.is_relative_to("/run/credentials") else target


def _refuse_newer(manifest: Manifest) -> None:
    for part in manifest.parts:
        if newer := newer_tables(part.schemas):
            raise BadBackup(
                f"{part.name} is of horde-proxy {manifest.horde_proxy}, which is newer: its tables "
                f"have the versions {newer}. Install that release first"
            )


@contextmanager
def _alone(targets: Sequence[Path], service: ServicePlaces | None) -> Iterator[None]:
    """Keep proxies from starting. Raises ClickException where one runs, or uses a database."""
    try:
        lock = lock_state(alone=True)
    except StateInUse as exc:
        raise click.ClickException(f"{exc}: {_STOP}") from exc
    try:
        used = [path for path in targets if path.suffix == ".db" and is_open_elsewhere(path)]
        if used or (service is not None and service.is_running()):
            what = f"{used[0]} is in use" if used else "the service runs"
            raise click.ClickException(f"{what}: {_STOP}")
        yield
    finally:
        if lock is not None:
            os.close(lock)


def _refuse_to_overwrite(targets: Sequence[Path], force: bool) -> None:
    present = [target for target in targets if target.exists()]
    if present and not force:
        raise click.ClickException(
            f"{present[0]} exists{f', and {len(present) - 1} more' if present[1:] else ''}: "
            f"--force overwrites, and keeps what was there as *{_REPLACED}"
        )


def _restore(file: Path, manifest: Manifest, targets: dict[str, Path]) -> None:
    """Write all parts beside their places, check the databases, and only then put them there."""
    unfinished = {name: _beside(path) for name, path in targets.items()}
    try:
        for path in targets.values():
            _make_folder(path.parent)
        extract(file, unfinished)
        for part in manifest.parts:
            if part.kind == "database" and part.name in unfinished:
                _refuse_damaged(unfinished[part.name], part.name)
        for part in manifest.parts:
            if (target := targets.get(part.name)) is not None:
                _let_the_same_read(unfinished[part.name], target, part.mode)
                _put_away(target)
                unfinished[part.name].replace(target)
    finally:
        for path in unfinished.values():
            path.unlink(missing_ok=True)


def _let_the_same_read(file: Path, target: Path, mode: int) -> None:
    """Give a file the permissions that it had, and the owner of the one that it replaces.

    Otherwise a service could not read settings of "root:horde-proxy 0640" any more. Nobody beside
    the owner may write it, and no program comes to have the rights of its owner.
    """
    file.chmod(mode & 0o744)
    if target.exists() and os.geteuid() == 0:
        before = target.stat()
        os.chown(file, before.st_uid, before.st_gid)


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.restoring")


def _make_folder(folder: Path) -> None:
    """Make a folder, and those above it, for the owner of the nearest one that there is."""
    if folder.exists():
        return
    _make_folder(folder.parent)
    folder.mkdir(mode=0o700)
    if os.geteuid() == 0:
        above = folder.parent.stat()
        os.chown(folder, above.st_uid, above.st_gid)


def _put_away(target: Path) -> None:
    """Rename what is there. A log that stayed would be played into the restored database."""
    for suffix in ("", *SIDE_FILES):
        path = target.with_name(target.name + suffix)
        if path.exists():
            path.replace(target.with_name(f"{target.name}{_REPLACED}{suffix}"))


@contextmanager
def _failures() -> Iterator[None]:
    try:
        yield
    except (BadBackup, DatabaseError) as exc:
        raise click.ClickException(str(exc)) from exc
    except OSError as exc:
        raise click.ClickException(f"{exc.filename or 'the file'}: {exc.strerror}") from exc
