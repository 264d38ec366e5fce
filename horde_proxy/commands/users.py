"""`horde-proxy users`: the members of the private horde, in its database.

They work beside a running horde, which sees each change with the next call.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from horde_proxy.commands.console import echo, print_json, say
from horde_proxy.commands.horde_database import stored_horde
from horde_proxy.commands.options import config_option, json_option
from horde_proxy.commands.table import aligned
from horde_proxy.private_horde.administration import Administration
from horde_proxy.private_horde.registration import DEFAULT_DAYS, MOST_USES
from horde_proxy.private_horde.roles import ADMIN, ROLES

_ROTATE = (
    "All other keys stop working but the settings' key, which is changed there, or the one in "
    "owner.key: delete the file and restart."
)


def _finite(_: click.Context, option: click.Parameter, value: float | None) -> float | None:
    if value is not None and not math.isfinite(value):
        raise click.BadParameter(f"{value} is not a finite number")
    return value


_kudos_option = click.option(
    "--kudos", type=float, callback=_finite, default=None, metavar="N", help="Kudos to add."
)


@click.group()
def users() -> None:
    """The members of the private horde: accounts, keys, roles, kudos, invitations."""


@users.command("add")
@click.argument("name")
@click.option("--admin", is_flag=True, help="May change everything.")
@click.option("--role", "roles", multiple=True, type=click.Choice(ROLES), help="Also this role.")
@_kudos_option
@click.option("--contact", default="", help="Where its moderators find the person.")
@json_option
@config_option
def add_user(
    name: str,
    admin: bool,
    roles: tuple[str, ...],
    kudos: float | None,
    contact: str,
    as_json: bool,
    path: str | None,
) -> None:
    """Make an account, and show its key this once; only the key's digest is kept."""
    roles = (*roles, ADMIN) if admin else roles
    with _horde(path) as horde:
        user = horde.add(name, roles=roles, kudos=kudos or 0.0, contact=contact)
    if as_json:
        print_json(user)
        return
    echo(user["api_key"])
    say(f"This is the key of {user['username']}. It cannot be shown again.")


@users.command("list")
@json_option
@config_option
def list_users(as_json: bool, path: str | None) -> None:
    """List all accounts, the oldest first."""
    with _horde(path) as horde:
        accounts = horde.users()
    if as_json:
        print_json(accounts)
        return
    rows = [("NAME", "SINCE", "KUDOS", "WORKERS", "REQUESTS", "KEYS", "ROLES", "STATE")]
    rows += [_row(user) for user in accounts]
    echo("\n".join(aligned(rows)))


def _row(user: dict[str, Any]) -> tuple[str, str, str, str, str, str, str, str]:
    return (
        user["username"],
        _day(time.time() - user["account_age"]),
        f"{user['kudos']:.0f}",
        str(user["worker_count"]),
        str(user["records"]["request"]["text"]),
        str(len(user["keys"])),
        ", ".join(user["roles"]) or "-",
        _state(user),
    )


def _state(user: dict[str, Any]) -> str:
    if user["deleted"]:
        return "deleted"
    return "blocked" if user["blocked"] else "active"


@users.command("show")
@click.argument("name")
@json_option
@config_option
def show_user(name: str, as_json: bool, path: str | None) -> None:
    """Show an account: NAME is its name, its name with number (ann#3), or its number."""
    with _horde(path) as horde:
        user = horde.show(name)
    _print_user(user, as_json)


@users.command("invite")
@click.option(
    "--uses", type=click.IntRange(1, MOST_USES), default=1, help="How often it works [1]."
)
@click.option(
    "--days",
    type=click.FloatRange(0, 3650),
    callback=_finite,
    default=DEFAULT_DAYS,
    help="Days until it ends, 0 for no end [7].",
)
@_kudos_option
@click.option("--note", default="", help="What it is for.")
@click.option("--list", "is_list", is_flag=True, help="List the invitations that still work.")
@click.option("--withdraw", type=int, metavar="ID", help="Make an invitation useless.")
@json_option
@config_option
def invite(
    uses: int,
    days: float,
    kudos: float | None,
    note: str,
    is_list: bool,
    withdraw: int | None,
    as_json: bool,
    path: str | None,
) -> None:
    """Make an invitation, and show its token this once."""
    with _horde(path) as horde:
        if withdraw is not None:
            horde.withdraw(withdraw)
            say(f"Invitation {withdraw} no longer works.")
        elif is_list:
            _print_invitations(horde.invitations(), as_json)
        else:
            made = horde.invite(uses=uses, days=days or None, kudos=kudos or 0.0, note=note)
            _print_invitation(made, as_json)


def _print_invitation(invitation: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(invitation)
        return
    echo(invitation["invitation"])
    end = "It has no end" if invitation["expires"] is None else f"It ends {_time(invitation)}"
    say(
        f"{end} and works {invitation['uses_left']} times. It cannot be shown again. To join:\n"
        "POST /api/v2/register with "
        '{"username": "NAME", "invitation": "TOKEN"}'
    )


def _print_invitations(invitations: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print_json(invitations)
        return
    rows = [("ID", "USES LEFT", "ENDS", "KUDOS", "NOTE")]
    for one in invitations:
        uses, kudos = str(one["uses_left"]), f"{one['kudos']:g}"
        rows.append((str(one["id"]), uses, _time(one), kudos, one["note"]))
    echo("\n".join(aligned(rows)))


@users.command("grant")
@click.argument("name")
@click.option("--role", type=click.Choice(ROLES), help="A role to give.")
@_kudos_option
@click.option("--monthly", type=int, metavar="N", help="Kudos to add to those of each month.")
@click.option("--concurrency", type=click.IntRange(0, 10_000), help="Results that may wait.")
@json_option
@config_option
def grant(
    name: str,
    role: str | None,
    kudos: float | None,
    monthly: int | None,
    concurrency: int | None,
    as_json: bool,
    path: str | None,
) -> None:
    """Give an account a role, kudos, or a concurrency. Negative kudos are taken."""
    fields = {"kudos": kudos, "monthly_kudos": monthly, "concurrency": concurrency}
    fields = {field: value for field, value in fields.items() if value is not None}
    if role is None and not fields:
        raise click.UsageError("name what to give: --role, --kudos, --monthly or --concurrency")
    with _horde(path) as horde:
        if role is not None:
            user = horde.set_role(name, role, True)
        if fields:
            user = horde.change(name, **fields)
    _print_user(user, as_json)


@users.command("revoke")
@click.argument("name")
@click.argument("role", type=click.Choice(ROLES))
@json_option
@config_option
def revoke(name: str, role: str, as_json: bool, path: str | None) -> None:
    """Take a role from an account."""
    with _horde(path) as horde:
        user = horde.set_role(name, role, False)
    _print_user(user, as_json)


def _changing_command(command: str, sentence: str, fields: dict[str, Any]) -> None:
    """Add a command that makes one change of an account."""

    @users.command(command, help=sentence)
    @click.argument("name")
    @json_option
    @config_option
    def change(name: str, as_json: bool, path: str | None) -> None:
        with _horde(path) as horde:
            user = horde.change(name, **fields)
        _print_user(user, as_json)


_changing_command("block", "Refuse all that an account wants to do.", {"blocked": True})
_changing_command("unblock", "Let a blocked account act again.", {"blocked": False})
_changing_command("restore", "Take back a deletion.", {"undelete": True})


@users.command("delete")
@click.argument("name")
@json_option
@config_option
def delete(name: str, as_json: bool, path: str | None) -> None:
    """Mark an account as deleted; a month later, the same command wipes it."""
    with _horde(path) as horde:
        user = horde.delete(name)
    _print_user(user, as_json)


@users.command("key")
@click.argument("name")
@click.option("--label", default="", help="What the key is for, such as a device.")
@click.option("--rotate", is_flag=True, help=_ROTATE)
@click.option("--delete", "fingerprint", metavar="FINGERPRINT", help="Delete a key (`users show`).")
@json_option
@config_option
def key(
    name: str,
    label: str,
    rotate: bool,
    fingerprint: str | None,
    as_json: bool,
    path: str | None,
) -> None:
    """Make another key for an account, and show it this once."""
    with _horde(path) as horde:
        if fingerprint is not None:
            horde.delete_key(name, fingerprint)
            say(f"The key {fingerprint} no longer works.")
            return
        made = horde.make_key(name, label, rotate=rotate)
    if as_json:
        print_json(made)
        return
    echo(made["api_key"])
    say(f"This is a key of {made['username']}. It cannot be shown again.")


@contextmanager
def _horde(path: str | None) -> Iterator[Administration]:
    """What an operator may do in the horde of the settings. Its errors end the command."""
    with stored_horde(path) as horde:
        yield horde.administration


def _print_user(user: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(user)
        return
    monthly = user["monthly_kudos"]
    rows = [
        ("name", user["username"]),
        ("state", _state(user)),
        ("roles", ", ".join(user["roles"]) or "none"),
        ("since", _day(time.time() - user["account_age"])),
        ("kudos", f"{user['kudos']:g}, {monthly['amount']} more each month"),
        ("contact", user.get("contact", "-")),
        ("comment", user.get("admin_comment", "-")),
        ("concurrency", str(user["concurrency"])),
        ("requests", str(user["records"]["request"]["text"])),
        ("jobs done", str(user["records"]["fulfillment"]["text"])),
        ("workers", str(user["worker_count"])),
        ("shared keys", str(len(user["sharedkey_ids"]))),
    ]
    rows += [("key", _key(one)) for one in user["keys"]]
    echo("\n".join(aligned(rows)))


def _key(one: dict[str, Any]) -> str:
    made = f"{one['fingerprint']}, made {_day(one['created'])}"
    name = one["name"] or (f"of the {one['origin']}" if one["origin"] else "")
    return f"{made}, {name}" if name else made


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(seconds))


def _time(invitation: dict[str, Any]) -> str:
    if invitation["expires"] is None:
        return "-"
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(invitation["expires"]))
