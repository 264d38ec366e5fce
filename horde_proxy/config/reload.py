"""What a reload must not do: let more clients in, or send chats where nobody said that they go.

A file that was emptied, cut off or half written is often valid all the same, and what it no longer
says would fall back to defaults. So a reload applies what a file says, and not what it has lost; to
fall back to a default, restart. No I/O: it compares two settings.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from horde_proxy.config.endpoints import EndpointSettings
from horde_proxy.config.file import SettingsFile
from horde_proxy.config.settings import Config
from horde_proxy.config.values import Section
from horde_proxy.key_digest import digest_of_setting
from horde_proxy.printable import without_login
from horde_proxy.upstreams.kinds import KINDS

END_MARK = "# end"
"""A last line like this is a promise: a version of the file without it is not complete."""
_OPENNESS = {"keys": 0, "passthrough": 1, "open": 2, None: 2}
"""How many clients each access.mode lets in, as an order."""
_GUARDS = {
    # With mode "keys", the default is another database: without the keys' daily usage, for example.
    "access": ("database",),
    # Without it, clients of nginx on this machine look as if they were on this machine.
    "server": ("trusted_proxies",),
    "horde": (
        "url",
        "api_key",
        "max_kudos_per_request",
        "trusted_workers",
        "allow_workers",
        "deny_workers",
    ),
    "private_horde": ("enabled",),
    # Without the first, answers that are waited for would seem to be gone. Without the second,
    # `days = 0`, what nobody wanted to be kept would be.
    "store": ("database", "days"),
}
"""By section, the settings whose loss would open something or send chats elsewhere."""
_GUARDS_OF_ENDPOINTS = (
    "url",
    "type",
    "api_key",
    "priority",
    "models",
    "prefix",
    "headers",
    "options",
    "place",
)
_GUARDS_OF_KEYS = (
    "models",
    "endpoints",
    "places",
    "requests_per_minute",
    "concurrent",
    "tokens_per_day",
    "kudos_per_day",
    "images_per_day",
    "horde_key",
)


def reasons_to_restart(running: Config, new: Config, started: Config) -> list[str]:
    """Why the new settings must not replace the running ones without a restart; empty: they may.

    `started` are the settings that the process began with.
    """
    return [
        *_cut_off_files(running.files, new.files),
        *_destinations(running, new, started),
        *_access(running, new),
        *_losses(running, new),
    ]


def _cut_off_files(before: Sequence[SettingsFile], after: Sequence[SettingsFile]) -> Iterator[str]:
    known = {file.path: file for file in before}
    for file in after:
        if file.path in known:
            yield from _cut_off(known[file.path], file)


def _cut_off(before: SettingsFile, after: SettingsFile) -> Iterator[str]:
    """A file that is the beginning of the one before it, as a full disk leaves it.

    Where TOML ends after a whole line, the lost settings tell whether that is a danger: removing
    the last lines is an ordinary change. In Python, a lost line may have changed those before it.
    """
    old, text = before.text.rstrip(), after.text.rstrip()
    if old.endswith("\n" + END_MARK) and not f"\n{text}".endswith("\n" + END_MARK):
        yield f"the last line of the file is no longer {END_MARK!r}"
    # As in `priority = 1` of `priority = 10`.
    is_in_a_line = not after.text.endswith("\n") and old[len(text) : len(text) + 1] != "\n"
    if text and text != old and old.startswith(text) and (after.is_python or is_in_a_line):
        yield (
            "the file is only the beginning of the one before, as if it had been cut off; if it "
            "is complete, add a comment at its end"
        )


def _destinations(running: Config, new: Config, started: Config) -> Iterator[str]:
    """Endpoints that are all gone, and a public horde that nobody has named."""
    # A private horde is there from the start of the process to its end.
    has_private = started.private_horde.enabled
    if running.endpoints and not new.endpoints and not has_private:
        yield (
            "the new settings name no endpoint, and the running ones do: chats would go to "
            f"{without_login(new.horde.url)}"
        )
    elif _uses_default_horde(new, has_private) and not (
        _uses_default_horde(running, has_private) or _uses_default_horde(started, has_private)
    ):
        yield (
            "an endpoint of the type 'horde' without a url would be "
            f"{without_login(new.horde.url)}, which the running settings do not use: write its url"
        )


def _uses_default_horde(settings: Config, has_private: bool) -> bool:
    """Whether chats may go to the public horde although no source names its URL."""
    if "url" in settings.horde.model_fields_set:
        return False
    if not settings.endpoints:
        return not has_private
    return any(KINDS[entry.type].is_horde and not entry.url for entry in settings.endpoints)


def _access(running: Config, new: Config) -> Iterator[str]:
    before, after = running.access.mode, new.access.mode
    if _OPENNESS[after] <= _OPENNESS[before]:
        return
    if after is None:
        yield "the new settings have no access.mode, and the running ones have"
    else:
        yield f"access.mode = {after!r} lets more clients in than {before!r}"


def _losses(running: Config, new: Config) -> Iterator[str]:
    """The settings that the new ones no longer have, and that would fall back to defaults."""
    lost = [*_lost(running, new, ("aliases",))]
    for name, guards in _GUARDS.items():
        section = _lost(getattr(running, name), getattr(new, name), guards)
        lost += [f"{name}.{field}" for field in section]
    for endpoint in new.endpoints:
        lost += _lost_of_endpoint(endpoint, running.endpoints)
    for name, alias in new.aliases.items():
        former = running.aliases.get(name)
        lost += [f"aliases.{name}.{field}" for field in _lost(former or alias, alias, ("places",))]
    # A key that is gone lets fewer clients in; a limit that is gone lets one do more.
    same_keys = {digest_of_setting(key.key): key for key in running.access.keys.values()}
    for name, key in new.access.keys.items():
        before = same_keys.get(digest_of_setting(key.key)) or running.access.keys.get(name)
        fields = _lost(before, key, _GUARDS_OF_KEYS) if before else ()
        lost += [f"access.keys.{name}.{field}" for field in fields]
    if lost:
        yield f"no longer set, so that defaults would apply: {', '.join(lost)}"


def _lost_of_endpoint(endpoint: EndpointSettings, running: list[EndpointSettings]) -> list[str]:
    """The names of the settings that an endpoint has lost."""
    losses = [
        list(_lost(entry, endpoint, _GUARDS_OF_ENDPOINTS))
        for entry in _predecessors(endpoint, running)
    ]
    # Of several with one URL, it is the one that it has lost least of.
    fewest = min(losses, key=len, default=[])
    return [f"endpoints.{endpoint.label()}.{field}" for field in fewest]


def _predecessors(
    endpoint: EndpointSettings, running: list[EndpointSettings]
) -> list[EndpointSettings]:
    """The running endpoints that a new one may replace; none if it is an additional one.

    The URL goes before the name: endpoints of one host without names are numbered anew.
    """
    same_url = [entry for entry in running if entry.url and entry.url == endpoint.url]
    same_name = [entry for entry in running if entry.label() == endpoint.label()]
    same = [entry for entry in same_url if entry.label() == endpoint.label()]
    return same or same_url or same_name


def _lost(before: Section, after: Section, fields: Iterable[str]) -> Iterator[str]:
    """The fields that no source sets any more, where the default has another value."""
    for field in fields:
        # A None of a Python file says as little, as in os.environ.get("KEY").
        is_set = field in after.model_fields_set and getattr(after, field) is not None
        if not is_set and getattr(before, field) != getattr(after, field):
            yield field
