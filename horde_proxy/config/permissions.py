"""Whether other users of this machine may write or read a file, by its owner and mode.

It changes no mode. A file on a read-only mount is as its administrator mounted it, and its modes do
not matter: Kubernetes' ConfigMaps (0644 in a folder of 0777), systemd's credentials, `docker run -v
FILE:FILE:ro`.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
from shlex import quote

from horde_proxy.config.errors import ConfigError


def refuse_foreign_code(path: str, status: os.stat_result) -> None:
    """Raises ConfigError for a Python file that others can change: its lines run as this user."""
    if _is_read_only(path):
        return
    if status.st_uid not in (0, os.geteuid()):
        owner, user = user_name(status.st_uid), user_name(os.geteuid())
        raise ConfigError(
            f"the configuration {path} is not executed, because it belongs to {owner} and this "
            f"process runs as {user}: chown {user} {quote(path)}, or write it as TOML"
        )
    if others_may_write(status):
        raise ConfigError(
            f"the configuration {path} is not executed, because others may write it: "
            f"chmod go-w {quote(path)}"
        )


def refuse_foreign_command(path: str) -> None:
    """Raises ConfigError for a file with a command that others can change: it runs as this user."""
    status = status_of(path)
    if status is None:
        return
    reason = f"the configuration {path} is not used, because it has a command (idle_hook), and"
    if status.st_uid not in (0, os.geteuid()):
        owner, user = user_name(status.st_uid), user_name(os.geteuid())
        raise ConfigError(
            f"{reason} belongs to {owner} while this process runs as {user}: "
            f"chown {user} {quote(path)}, or let idle_hook be a URL"
        )
    if others_may_write(status):
        raise ConfigError(f"{reason} others may write it: chmod go-w {quote(path)}")


def status_of(path: str) -> os.stat_result | None:
    """The owner and the mode of a file; None where there is none, or nobody can change it."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    # A pipe, as `--config <(sops -d ...)` makes one, has no place where others could find it.
    is_found = stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)
    return status if is_found and not _is_read_only(path) else None


def _is_read_only(path: str) -> bool:
    try:
        return bool(os.statvfs(path).f_flag & os.ST_RDONLY)
    except OSError:
        return False


def others_may_write(status: os.stat_result) -> bool:
    """Whether users beside the owner may write a file, or make and remove files in a folder."""
    # With the umask 0002 that goes with a group for each user, every file of a user is "writable by
    # the group".
    is_shared = not _is_group_of(status.st_gid, {status.st_uid})
    return bool(status.st_mode & (stat.S_IWOTH | (stat.S_IWGRP if is_shared else 0)))


def others_may_read(status: os.stat_result) -> bool:
    """Whether users beside the owner and this process's may read a file."""
    # "root:horde-proxy 0640" lets the service read what only root may write.
    is_shared = not _is_group_of(status.st_gid, {status.st_uid, os.geteuid()})
    return bool(status.st_mode & (stat.S_IROTH | (stat.S_IRGRP if is_shared else 0)))


def _is_group_of(group: int, users: set[int]) -> bool:
    """Whether a group is named after one of these users and has no others.

    Debian, Fedora and systemd make such a group for each user. The name matters because networks'
    accounts cannot all be listed: "users" may have members that no list shows.
    """
    try:
        entry = grp.getgrgid(group)
    except KeyError:
        return False
    names = {user_name(user) for user in users}
    main = {user.pw_uid for user in pwd.getpwall() if user.pw_gid == group}
    # Not root's: what is made for it has the umask 022, and administrators may be in its group.
    is_named = group != 0 and entry.gr_name in names
    return is_named and main <= users and set(entry.gr_mem) <= names


def user_name(user: int) -> str:
    """The name of a user, or the number of one without an account."""
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return str(user)
