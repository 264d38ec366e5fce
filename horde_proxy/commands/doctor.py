"""What `check` finds on this machine: its disk, its databases, and the certificate of an address.

Each check yields findings, and none changes anything.
"""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import certifi

from horde_proxy.commands.findings import Finding
from horde_proxy.commands.kept_data import database_files, newer_tables
from horde_proxy.config import Config
from horde_proxy.database.errors import DatabaseError
from horde_proxy.database.files import quick_check, schema_versions
from horde_proxy.folders import NoHomeFolder, state_folder
from horde_proxy.upstreams.sessions import SYSTEM_CERTIFICATES, trusted_certificates

_LEAST_FREE = 1_000_000_000
"""Bytes: stored pictures and a copy before an upgrade need about as many."""
_CHECK_SECONDS = 10.0
"""For each database: one of 8 GB (store.pruning) would take minutes."""
_LEAST_DAYS = 14.0
"""Let's Encrypt's clients renew 30 days before the end; with less than this, they have failed."""
_DAY = 24 * 3600
_TIMEOUT = 5.0
HOW_TO_TRUST = (
    "update-ca-certificates adds it to the system's, REQUESTS_CA_BUNDLE names another file"
)
_RENEW = "renew it: certbot renew, or look at the log of what stands before the proxy"


def check_disk(
    folder: Path | None = None,
    free_bytes: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free,
) -> Iterator[Finding]:
    """Whether there is room in the state folder, or where it would be made."""
    try:
        folder = folder or state_folder()
    except NoHomeFolder as exc:
        yield Finding(f"disk: {exc}", "set STATE_DIRECTORY")
        return
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = free_bytes(existing)
    fix = "" if free >= _LEAST_FREE else "make room, or lower store.days and stats.history_days"
    yield Finding(f"disk: {_bytes(free)} free for {folder}", fix)


def check_databases(settings: Config, seconds: float = _CHECK_SECONDS) -> Iterator[Finding]:
    """Whether each file of SQLite is whole, and of a release that this one can read."""
    for path, setting in database_files(settings).items():
        try:
            yield _database(path, f"database: {path} ({setting})", seconds)
        except DatabaseError as exc:
            yield Finding(f"database: {exc}", "look at its owner and mode, or restore a backup")


def _database(path: Path, what: str, seconds: float) -> Finding:
    damage, versions = quick_check(path, seconds), schema_versions(path)
    if damage:
        return Finding(f"{what} is damaged: {damage}", "stop the proxy, and restore a backup")
    if newer := newer_tables(versions):
        return Finding(f"{what} is of a newer release: {newer}", "install that release again")
    tables = ", ".join(f"{owner} {version}" for owner, version in sorted(versions.items()))
    state = "is whole" if damage == "" else f"has no damage in {seconds:g} s; not all was read"
    return Finding(f"{what} {state}, {_bytes(path.stat().st_size)}, tables: {tables or 'none'}")


def check_authorities(
    environ: Mapping[str, str], system: Sequence[str] = SYSTEM_CERTIFICATES
) -> Finding:
    """Whose certificates are trusted, for calls of https addresses."""
    path, origin = trusted_certificates(environ, system)
    what = f"certificates: the authorities of {origin} are trusted"
    if path is None:
        return Finding(what)
    fix = "" if os.path.exists(path) else f"{origin} names what is not there: correct it"
    return Finding(f"{what} ({path})", fix)


def check_certificate(
    url: str,
    now: Callable[[], float] = time.time,
    end_of: Callable[[str, int], float] | None = None,
) -> Iterator[Finding]:
    """How long the certificate of an https address holds. `end_of` reads its end (Unix s)."""
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.hostname:
        return
    try:
        end = (end_of or certificate_end)(parts.hostname, parts.port or 443)
    except ssl.SSLCertVerificationError as exc:
        fix = (
            "install the whole chain of a certificate for this name, or trust its authority here: "
            f"{HOW_TO_TRUST}"
        )
        yield Finding(f"certificate: of {parts.hostname}: {exc.verify_message}", fix)
        return
    except OSError:
        # The next check says why the address cannot be reached.
        return
    days = (end - now()) / _DAY
    what = f"certificate: of {parts.hostname}, holds for {days:.0f} days"
    yield Finding(what, "" if days >= _LEAST_DAYS else _RENEW)


def certificate_end(host: str, port: int) -> float:
    """When a server's certificate ends (Unix time). Raises SSLCertVerificationError and OSError."""
    path = trusted_certificates(os.environ).path or certifi.where()
    is_folder = os.path.isdir(path)
    context = ssl.create_default_context(
        cafile=None if is_folder else path, capath=path if is_folder else None
    )
    with (
        socket.create_connection((host, port), timeout=_TIMEOUT) as connection,
        context.wrap_socket(connection, server_hostname=host) as secured,
    ):
        certificate = secured.getpeercert() or {}
    return float(ssl.cert_time_to_seconds(str(certificate["notAfter"])))


def _bytes(number: int) -> str:
    """As in "12.3 MB"."""
    size, unit = float(number), "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{number} bytes" if unit == "bytes" else f"{size:.1f} {unit}"
