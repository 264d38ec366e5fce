"""`horde-proxy horde news|filters|modes|timeouts`: the rules of a horde, in its database.

They work beside a running horde, which keeps each change from its next call on.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from horde_proxy.commands.console import echo, print_json, say
from horde_proxy.commands.horde_database import stored_horde
from horde_proxy.commands.options import config_option, json_option
from horde_proxy.commands.table import aligned
from horde_proxy.private_horde.address_timeouts import MOST_HOURS
from horde_proxy.private_horde.operator_rules import OperatorRules

_SWITCH = click.Choice(["on", "off"])


@contextmanager
def _rules(path: str | None) -> Iterator[OperatorRules]:
    """What an operator may arrange in the horde of the settings. Its errors end the command."""
    # The file that `horde-proxy horde --config FILE` was given.
    with stored_horde(path or click.get_current_context().find_object(str)) as horde:
        yield horde.operator_rules


def _show_rows(rows: list[dict[str, Any]], as_json: bool, **columns: str) -> None:
    """JSON, or a table: its headings by the names of the fields."""
    if as_json:
        print_json(rows)
        return
    cells = [[_cell(row[name]) for name in columns] for row in rows]
    echo("\n".join(aligned([list(columns.values()), *cells])))


def _cell(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else str(value) or "-"


@click.group()
def news() -> None:
    """The news that /api/v2/status/news lists."""


@news.command("list")
@json_option
@config_option
def list_news(as_json: bool, path: str | None) -> None:
    """List the news, the newest first."""
    with _rules(path) as rules:
        items = rules.news()
    _show_rows(
        items, as_json, id="ID", date_published="DATE", importance="IMPORTANCE", title="TITLE"
    )


@news.command("add")
@click.argument("title")
@click.argument("text")
@click.option("--importance", default="Information", help="Shown with it [Information].")
@click.option("--tag", "tags", multiple=True, help="A tag; may be repeated.")
@click.option("--link", "links", multiple=True, help="A URL with more; may be repeated.")
@json_option
@config_option
def add_news(
    title: str,
    text: str,
    importance: str,
    tags: tuple[str, ...],
    links: tuple[str, ...],
    as_json: bool,
    path: str | None,
) -> None:
    """Publish an item. TEXT is Markdown; with "-", it is read from stdin."""
    text = sys.stdin.read() if text == "-" else text
    with _rules(path) as rules:
        item = rules.publish_news(
            title=title,
            newspiece=text.strip(),
            importance=importance,
            tags=list(tags),
            more_info_urls=list(links),
        )
    if as_json:
        print_json(item)
    else:
        say(f"Published as number {item['id']}.")


@news.command("delete")
@click.argument("number")
@config_option
def delete_news(number: str, path: str | None) -> None:
    """Remove an item by its number."""
    with _rules(path) as rules:
        rules.delete_news(number)
    say(f"Item {number} is gone.")


@click.group()
def filters() -> None:
    """The filters of prompts: words that are refused or replaced."""


_FILTER_COLUMNS = {
    "id": "ID",
    "filter_type": "TYPE",
    "regex": "REGEX",
    "replacement": "REPLACEMENT",
    "description": "DESCRIPTION",
}


@filters.command("list")
@json_option
@config_option
def list_filters(as_json: bool, path: str | None) -> None:
    """List all filters, the oldest first."""
    with _rules(path) as rules:
        _show_rows(rules.filters(), as_json, **_FILTER_COLUMNS)


@filters.command("add")
@click.argument("regex")
@click.option("--replacement", default="", help="Words in place of a match [prompts are refused].")
@click.option("--description", default="", help="What it is for.")
@click.option(
    "--type", "kind", type=click.IntRange(10, 29), default=10, help="AI-Horde's type [10]."
)
@json_option
@config_option
def add_filter(
    regex: str, replacement: str, description: str, kind: int, as_json: bool, path: str | None
) -> None:
    """Refuse prompts that match a regular expression (RE2), or replace what matches."""
    with _rules(path) as rules:
        added = rules.add_filter(
            regex=regex, replacement=replacement, description=description, filter_type=kind
        )
    if as_json:
        print_json(added)
    else:
        say(f"Added as number {added['id']}.")


@filters.command("delete")
@click.argument("number")
@config_option
def delete_filter(number: str, path: str | None) -> None:
    """Remove a filter by its number."""
    with _rules(path) as rules:
        rules.delete_filter(number)
    say(f"Filter {number} is gone.")


@filters.command("test")
@click.argument("prompt")
@json_option
@config_option
def test_filters(prompt: str, as_json: bool, path: str | None) -> None:
    """Show the filters that match a prompt."""
    with _rules(path) as rules:
        _show_rows(rules.test_prompt(prompt), as_json, **_FILTER_COLUMNS)


@click.command()
@click.option("--maintenance", type=_SWITCH, help="Refuse new requests; waiting ones are served.")
@click.option("--invite-only", type=_SWITCH, help="Take new workers of invited accounts only.")
@json_option
@config_option
def modes(
    maintenance: str | None, invite_only: str | None, as_json: bool, path: str | None
) -> None:
    """Show the modes of the horde, or switch them."""
    switches = {"maintenance_mode": maintenance, "invite_only_mode": invite_only}
    changes = {name: switch == "on" for name, switch in switches.items() if switch is not None}
    with _rules(path) as rules:
        current = rules.change_modes(**changes) if changes else rules.modes()
    if as_json:
        print_json(current)
        return
    rows = [(name, "on" if is_on else "off") for name, is_on in current.items()]
    echo("\n".join(aligned(rows)))


@click.group()
def timeouts() -> None:
    """The addresses from which submits and pops are refused."""


@timeouts.command("list")
@json_option
@config_option
def list_timeouts(as_json: bool, path: str | None) -> None:
    """List the time-outs, the longest first."""
    with _rules(path) as rules:
        _show_rows(rules.timeouts(), as_json, ipaddr="ADDRESS", seconds="SECONDS LEFT")


@timeouts.command("add")
@click.argument("address")
@click.option("--hours", type=click.IntRange(1, MOST_HOURS), default=24, help="How long [24].")
@config_option
def add_timeout(address: str, hours: int, path: str | None) -> None:
    """Keep an address, or a network such as 198.51.100.0/24, out for some hours."""
    with _rules(path) as rules:
        rules.add_timeout(address, hours)
    say(f"Submits and pops from {address} are refused for {hours} hours.")


@timeouts.command("delete")
@click.argument("address")
@config_option
def delete_timeout(address: str, path: str | None) -> None:
    """Let an address or a network in again."""
    with _rules(path) as rules:
        rules.delete_timeout(address)
    say(f"{address} may come again.")
