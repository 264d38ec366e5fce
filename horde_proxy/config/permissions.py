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
    return _others_may(status, stat.S_IWGRP, stat.S_IWOTH)


def _others_may(status: os.stat_result, group: int, others: int) -> bool:
    """Whether users beside the owner have one of these bits of the mode."""
    mode = status.st_mode
    return bool(mode & others) or bool(mode & group and not _is_private_group(status))


def others_may_read(status: os.stat_result) -> bool:
    """Whether users beside the owner and this process's may read a file."""
    # "root:horde-proxy 0640" lets the service read what only root may write.
    is_own = status.st_gid != 0 and _members(status.st_gid) <= {os.geteuid(), status.st_uid}
    return _others_may(status, 0 if is_own else stat.S_IRGRP, stat.S_IROTH)


def _is_private_group(status: os.stat_result) -> bool:
    """Whether a file's group is its owner's alone, as Debian and Fedora make one for each user.

    With the umask 0002 that goes with such groups, every file of a user is "writable by the group".
    """
    owner = status.st_uid
    try:
        is_primary = pwd.getpwuid(owner).pw_gid == status.st_gid
    except KeyError:
        return False
    return owner != 0 and is_primary and _members(status.st_gid) <= {owner}


def _members(group: int) -> set[int]:
    """The users of a group, whether it is their main one or a further one."""
    users = pwd.getpwall()
    try:
        named = set(grp.getgrgid(group).gr_mem)
    except KeyError:
        named = set()
    return {user.pw_uid for user in users if user.pw_gid == group or user.pw_name in named}


def user_name(user: int) -> str:
    """The name of a user, or the number of one without an account."""
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return str(user)
