"""What the steps of the first run change in the settings. No Flask, no HTML.

Each function reads a form, changes an edited file and saves it. The step shows its StepOutcome.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from horde_proxy.api.settings_access import EditedSettings, SettingsAccess, TriedServer
from horde_proxy.errors import InvalidApiKey, ProxyError, SettingsRefused
from horde_proxy.key_digest import key_digest
from horde_proxy.ledger import new_key
from horde_proxy.printable import without_login
from horde_proxy.web.sent_forms import Form

REGISTER_URL = "https://aihorde.net/register"
_ANONYMOUS = "0000000000"
_ALL_ADDRESSES = "0.0.0.0"  # noqa: S104
_LAST_PRIORITY = 10
"""Of the public horde beside servers of one's own: they come first."""
_SHOWN_MODELS = 5


@dataclass(frozen=True)
class StepOutcome:
    """The result of a change: `text` is the sentence that the step shows.

    `changed` names settings, for the journal; never their values. `restart` names those that only a
    restart applies. `secret` is a new key, which is shown once.
    """

    text: str
    changed: str = ""
    restart: tuple[str, ...] = ()
    secret: str = field(default="", repr=False)


def choose_access(settings: SettingsAccess, form: Form) -> StepOutcome:
    """Say who may use the proxy. Raises SettingsRefused."""
    match form.get("access"):
        case "local":
            return _only_this_machine(settings)
        case "keys":
            return _with_keys(settings, form)
        case "open":
            edited = settings.edit()
            _set(settings, edited, "access.mode", "open")
            hint = _listen(settings, edited, everywhere=True)
            restart = settings.save(edited)
            text = f"Everybody in your network may use this proxy.{hint}"
            return StepOutcome(text, "access.mode, server.bind", restart)
        case _:
            raise SettingsRefused("Choose who may use this proxy.")


def _only_this_machine(settings: SettingsAccess) -> StepOutcome:
    text = "Only programs on this machine may use this proxy."
    if settings.value("access.mode") is None and _is_local(settings):
        return StepOutcome(text)
    edited = settings.edit()
    edited.clear("access.mode")
    hint = _listen(settings, edited, everywhere=False)
    restart = settings.save(edited)
    return StepOutcome(text + hint, "access.mode, server.bind", restart)


def _with_keys(settings: SettingsAccess, form: Form) -> StepOutcome:
    name = form.get("name", "").strip()
    if not name:
        raise SettingsRefused("Give the key a name, such as that of the device that uses it.")
    if name in settings.value("access.keys"):
        raise SettingsRefused(f"There is a key called {name} already: choose another name.")
    key, edited = new_key(), settings.edit()
    _set(settings, edited, "access.mode", "keys")
    edited.set(("access", "keys", name), {"key": f"sha256:{key_digest(key)}", "admin": True})
    hint = _listen(settings, edited, everywhere=True) if form.get("network") else ""
    restart = settings.save(edited)
    text = f"From now on, this proxy serves clients with a key. The first one is called {name}."
    return StepOutcome(text + hint, f"access.mode, access.keys.{name}", restart, key)


def _listen(settings: SettingsAccess, edited: EditedSettings, *, everywhere: bool) -> str:
    """Let the proxy listen on all addresses, or on this machine's own, on the same port.

    Why that is not possible, as a sentence to add; "" where it is.
    """
    bind = str(settings.value("server.bind"))
    port = bind.rpartition(":")[2]
    # A socket of systemd or a path is the operator's own arrangement.
    if bind.startswith(("unix:", "fd://")) or _is_local(settings) != everywhere:
        return ""
    try:
        edited.set("server.bind", f"{_ALL_ADDRESSES if everywhere else '127.0.0.1'}:{port}")
    except SettingsRefused as exc:
        # A container's environment says where it listens; the key is made all the same.
        return f" Where it listens is not changed: {exc.message}"
    return ""


def _is_local(settings: SettingsAccess) -> bool:
    return bool(settings.value("server").is_local())


def _set(settings: SettingsAccess, edited: EditedSettings, name: str, value: Any) -> None:
    """Set a value that is not in force already, such as by a variable, which overrides the file."""
    if settings.value(name) != value:
        edited.set(name, value)


def choose_horde_key(settings: SettingsAccess, form: Form) -> StepOutcome:
    """Say with which key the public horde is used, after a test. Raises ProxyError."""
    key = form.get("key", "").strip()
    if form.get("account") != "own":
        if settings.value("horde.api_key") == _ANONYMOUS:
            return StepOutcome("The horde serves you anonymously, after those with an account.")
        edited = settings.edit()
        edited.set("horde.api_key", _ANONYMOUS)
        return StepOutcome(
            "The horde serves you anonymously.", "horde.api_key", settings.save(edited)
        )
    if not key:
        raise SettingsRefused("Paste your key, or choose to stay anonymous.")
    text = _tried_key(settings, key, may_fail=bool(form.get("untested")))
    edited = settings.edit()
    edited.set("horde.api_key", key)
    return StepOutcome(text, "horde.api_key", settings.save(edited))


def _tried_key(settings: SettingsAccess, key: str, *, may_fail: bool) -> str:
    try:
        account = settings.try_horde_key(key)
    except InvalidApiKey as exc:
        raise SettingsRefused(
            "The horde does not know this key. Look for a missing letter, or make a new account."
        ) from exc
    except ProxyError as exc:
        if may_fail:
            return "The key is saved, and was not tried."
        raise SettingsRefused(f"The key could not be tried: {exc.message}") from exc
    kudos = f"{account.kudos:,.0f} kudos"
    return f"The horde knows this key: it is that of {account.username}, who has {kudos}."


def test_server(settings: SettingsAccess, form: Form) -> StepOutcome:
    """Ask a server of one's own for its models. Raises ProxyError."""
    return StepOutcome(f"It answers. {_sentence(_tried(settings, form))}")


def add_server(settings: SettingsAccess, form: Form) -> StepOutcome:
    """Add a server of one's own, after a test. Raises ProxyError."""
    url = form.get("url", "").strip()
    if any(entry.url == url for entry in settings.value("endpoints")):
        raise SettingsRefused("This server is in the list already.")
    if form.get("untested"):
        tried, text = TriedServer(form.get("type") or "openai", ()), "It was not tried."
    else:
        tried = _tried(settings, form)
        text = _sentence(tried)
    edited = settings.edit()
    entry = {"url": url, "type": tried.kind}
    entry |= {
        name: form[name].strip() for name in ("name", "api_key") if form.get(name, "").strip()
    }
    is_first = not settings.value("endpoints")
    edited.append("endpoints", entry)
    if is_first and form.get("horde"):
        edited.append("endpoints", {"type": "horde", "name": "horde", "priority": _LAST_PRIORITY})
    restart = settings.save(edited)
    return StepOutcome(f"{without_login(url)} is added. {text}", "endpoints", restart)


def remove_server(settings: SettingsAccess, form: Form) -> StepOutcome:
    """Remove an endpoint, by its number in the list and its name. Raises ProxyError."""
    endpoints = settings.value("endpoints")
    number = form.get("number", "")
    is_there = number.isdecimal() and int(number) < len(endpoints)
    if not is_there or endpoints[int(number)].label() != form.get("label"):
        raise SettingsRefused("This server is not in the list any more.")
    edited = settings.edit()
    edited.unset(("endpoints", int(number)))
    restart = settings.save(edited)
    return StepOutcome(f"{form.get('label')} is removed.", "endpoints", restart)


def choose_private_horde(settings: SettingsAccess, form: Form) -> StepOutcome:
    """Turn the private horde on or off; that needs a restart. Raises ProxyError."""
    wanted = bool(form.get("enabled"))
    if settings.value("private_horde.enabled") == wanted:
        return StepOutcome(f"The private horde is {'on' if wanted else 'off'}.")
    edited = settings.edit()
    edited.set("private_horde.enabled", wanted)
    restart = settings.save(edited)
    text = f"The private horde will be {'on' if wanted else 'off'}."
    return StepOutcome(text, "private_horde.enabled", restart)


def finish(settings: SettingsAccess) -> StepOutcome:
    """Do not lead through the settings again, where nothing was set."""
    if not settings.is_first_run():
        return StepOutcome("")
    edited = settings.edit()
    edited.set("server.first_run", False)
    return StepOutcome("", "server.first_run", settings.save(edited))


def _tried(settings: SettingsAccess, form: Form) -> TriedServer:
    url, key = form.get("url", "").strip(), form.get("api_key", "").strip()
    if not url:
        raise SettingsRefused("Write the URL of your server, such as http://127.0.0.1:11434.")
    try:
        return settings.try_server(url, key or None, form.get("type") or None)
    except SettingsRefused as exc:
        raise SettingsRefused(f"This is not a URL that can be called: {exc.message}") from exc
    except InvalidApiKey as exc:
        raise SettingsRefused("The server needs an API key, or refuses this one.") from exc
    except ProxyError as exc:
        raise SettingsRefused(f"The server does not answer as it should: {exc.message}") from exc


def _sentence(tried: TriedServer) -> str:
    """What a server has said of itself."""
    kind = {"horde": "It is a horde", "ocf": "It is a node of the Open Compute Framework"}
    what = kind.get(tried.kind, "It is a server with OpenAI's API")
    if tried.offers_any:
        return f"{what}, and lists no models: any name may be used."
    if not tried.models:
        return f"{what}, without a model at the moment."
    names = ", ".join(tried.models[:_SHOWN_MODELS])
    more = len(tried.models) - _SHOWN_MODELS
    count = "one model" if len(tried.models) == 1 else f"{len(tried.models)} models"
    return f"{what} with {count}: {names}{f' and {more} more' if more > 0 else ''}."
