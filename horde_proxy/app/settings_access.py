"""The settings of a running app, for the pages of its operator: shown, changed, tried.

A change is checked as a start would check it and as a reload would, before the file is replaced.
Then the settings are used: by the Reloader that watches the file where there is one, so that its
thread and a view do not reload at the same time; else at once.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn, cast

from flask import Flask
from pydantic import ValidationError

from horde_proxy import config as settings_room
from horde_proxy.api.settings_access import (
    EditedSettings,
    SettingName,
    SettingOrigin,
    TriedHordeKey,
    TriedServer,
)
from horde_proxy.caching.background import inline
from horde_proxy.config import Config, ConfigError, EndpointSettings
from horde_proxy.config.edited_file import EditedFile
from horde_proxy.config.first_run import is_unconfigured
from horde_proxy.config.reload import reasons_to_restart
from horde_proxy.errors import InvalidApiKey, ProxyError, SettingsRefused
from horde_proxy.protocol.models import is_available

if TYPE_CHECKING:
    from horde_proxy.api.context import AppContext
    from horde_proxy.app.factory import Composition
    from horde_proxy.app.reload import Reloader
    from horde_proxy.upstreams.horde.upstream import HordeUpstream

RELOADER = "reloader"
"""The name of the app's extension that reloads its settings."""
_NO_ADMIN = (
    "nobody could open these pages any more, because no key is an administrator's: make one first. "
    'With access.mode = "keys", the page /page/first-run does so'
)
_BY_HAND = "to do that, change the file by hand and restart"


class AppSettings:
    """See api.settings_access. `use` gives the app new settings where no Reloader does."""

    def __init__(self, app: Flask, use: Callable[[Flask, Config], list[str]]) -> None:
        self._app, self._use = app, use
        # One save at a time. The file is read and written under it; no request but saves waits.
        self._saving = threading.Lock()

    @property
    def _parts(self) -> Composition:
        return cast("Composition", self._app.extensions["composition"])

    def is_first_run(self) -> bool:
        settings = self._parts.settings
        return settings.server.first_run and is_unconfigured(settings)

    def value(self, name: str) -> Any:
        section, _, field = name.partition(".")
        values = getattr(self._parts.settings, section)
        return getattr(values, field) if field else values

    def origins(self) -> list[SettingOrigin]:
        sources = self._parts.settings.sources
        with _refused():
            if sources is None:
                raise ConfigError("these settings come from no file")
            loaded = settings_room.load_with_origins(sources.path, sources.environ, sources.flags)
            return list(loaded[1])

    def edit(self) -> EditedSettings:
        with _refused():
            return _RefusingFile(self._parts.settings)

    def save(self, edited: EditedSettings, expected: str | None = None) -> tuple[str, ...]:
        parts = self._parts
        with self._saving, _refused():
            config = cast(_RefusingFile, edited).save(expected, self._refuse_unfit)
            reloader = cast("Reloader | None", self._app.extensions.get(RELOADER))
            if reloader is None:
                return tuple(self._use(self._app, config))
            reloader.reload()
        if parts.live.settings.problem is not None:
            raise SettingsRefused(
                f"The file is saved, but not in use: {parts.live.settings.problem}"
            )
        return reloader.needs_restart

    def try_server(self, url: str, api_key: str | None, kind: str | None) -> TriedServer:
        if kind is not None:
            return self._try(url, api_key, kind)
        try:
            openai = self._try(url, api_key, "openai")
            if not openai.offers_any:
                return openai
        except (SettingsRefused, InvalidApiKey):
            raise
        except ProxyError as exc:
            # What the first kind says is what most servers are.
            return self._try_horde(url, api_key) or _raise(exc)
        # It lists no models below /v1, as a horde, or a server that takes any name.
        return self._try_horde(url, api_key) or openai

    def _try_horde(self, url: str, api_key: str | None) -> TriedServer | None:
        try:
            return self._try(url, api_key, "horde")
        except ProxyError:
            return None

    def _try(self, url: str, api_key: str | None, kind: str) -> TriedServer:
        from horde_proxy.app.assembly import build

        with _refused():
            try:
                endpoint = EndpointSettings(url=url, api_key=api_key, type=kind)
            except ValidationError as exc:
                reason = exc.errors()[0]["msg"].removeprefix("Value error, ")
                raise ConfigError(reason) from None
            upstream = build(endpoint, self._services())
        models = upstream.models()
        names = tuple(str(model["id"]) for model in models if is_available(model))
        return TriedServer(kind, names, bool(upstream.offers_any))

    def try_horde_key(self, api_key: str) -> TriedHordeKey:
        from horde_proxy.app.assembly import build

        endpoint = EndpointSettings(type="horde", name="horde")
        horde = cast("HordeUpstream", build(endpoint, self._services()))
        user = horde.find_user(api_key)
        kudos = user.get("kudos")
        number = float(kudos) if isinstance(kudos, int | float) else 0.0
        return TriedHordeKey(str(user.get("username", "")), number)

    def _services(self) -> Any:
        """What upstreams are built with; inline, so that a failure is known at once."""
        parts = self._parts
        return replace(parts.assembly.services(parts.settings), run=inline)

    def _refuse_unfit(self, config: Config) -> None:
        """Raises ConfigError for settings that the running proxy would not take."""
        parts = self._parts
        reloader = cast("Reloader | None", self._app.extensions.get(RELOADER))
        if reasons := reasons_to_restart(parts.settings, config, parts.started_with):
            raise ConfigError(f"{'; '.join(reasons)}; {_BY_HAND}")
        if self._has_operator(parts.settings) and not self._has_operator(config):
            raise ConfigError(_NO_ADMIN)
        if reloader is not None:
            reloader.check(config)

    def _has_operator(self, config: Config) -> bool:
        """Whether somebody may still open the pages that change settings."""
        access = config.access
        if access.mode != "keys" or any(key.admin for key in access.keys.values()):
            return True
        keys = cast("AppContext", self._app.extensions["horde_proxy"]).admin.keys
        made = [] if keys is None else [key for _, key, revoked in keys.all_keys() if not revoked]
        names = {key.name for key in made} | set(access.keys)
        return any(key.admin for key in made) or bool(names & set(access.admins))


class _RefusingFile:
    """An EditedFile that raises SettingsRefused, as everything that pages call."""

    def __init__(self, settings: Config) -> None:
        self._file = EditedFile(settings.sources)
        self.path, self.digest, self.save = self._file.path, self._file.digest, self._file.save

    def set(self, name: SettingName, value: Any) -> None:
        with _refused():
            self._file.set(name, value)

    def unset(self, name: SettingName) -> None:
        with _refused():
            self._file.unset(name)

    def clear(self, name: SettingName) -> None:
        with _refused():
            self._file.clear(name)

    def append(self, name: SettingName, value: Any) -> None:
        with _refused():
            self._file.append(name, value)

    def remove(self, name: SettingName, field: str, value: Any) -> None:
        with _refused():
            self._file.remove(name, field, value)


def _raise(error: ProxyError) -> NoReturn:
    raise error


@contextmanager
def _refused() -> Iterator[None]:
    """Turn errors of the settings into one that a page shows."""
    try:
        yield
    except ConfigError as exc:
        text = str(exc)
        raise SettingsRefused(f"{_begun(text)}.") from exc


def _begun(text: str) -> str:
    """A reason as the beginning of a sentence. The name of a setting keeps its small letters."""
    # "server.bind comes from ...", "idle_hook can be ...", "/etc/horde-proxy/settings.toml: ..."
    is_name = re.match(r"\w*[._/]\w", text) or text.partition(" ")[0] in Config.model_fields
    return text if is_name else f"{text[:1].upper()}{text[1:]}"
