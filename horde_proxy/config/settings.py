"""All sections together, and what must be true of several of them at once. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import PrivateAttr, field_validator, model_validator

from horde_proxy.config.access import AccessSettings
from horde_proxy.config.endpoints import EndpointSettings, RoutingSettings, number_unnamed
from horde_proxy.config.file import SettingsFile
from horde_proxy.config.hordes import (
    CacheSettings,
    HordeSettings,
    PrivateHordeSettings,
    StatsSettings,
)
from horde_proxy.config.models import AliasSettings, ModelsSettings
from horde_proxy.config.notices import NoticeSettings
from horde_proxy.config.server import ServerSettings
from horde_proxy.config.settings_sources import SettingsSources
from horde_proxy.config.store import StoreSettings, WebhookSettings
from horde_proxy.config.values import Section
from horde_proxy.places import EndpointPlace
from horde_proxy.prompts.formats import FORMATS


class Config(Section):
    """All settings. Tables that are not sections have free names on the left."""

    server: ServerSettings = ServerSettings()
    access: AccessSettings = AccessSettings()
    horde: HordeSettings = HordeSettings()
    private_horde: PrivateHordeSettings = PrivateHordeSettings()
    cache: CacheSettings = CacheSettings()
    stats: StatsSettings = StatsSettings()
    store: StoreSettings = StoreSettings()
    webhooks: WebhookSettings = WebhookSettings()
    notices: NoticeSettings = NoticeSettings()
    endpoints: list[EndpointSettings] = []
    routing: RoutingSettings = RoutingSettings()
    models: ModelsSettings = ModelsSettings()
    fallbacks: dict[str, list[str]] = {}
    """The models that are tried instead of a model, in order; `"*"` is any model."""
    aliases: dict[str, AliasSettings] = {}
    """Other names for models; a name on the right may be a glob, a list or `auto`. With
    `{ model = "NAME", places = ["home"] }` whatever names the alias is bound to these places."""
    formats: dict[str, str] = {}
    """The chat format of models, by globs of their names."""
    tool_styles: dict[str, Literal["hermes", "llama3", "mistral", "none"]] = {}
    """How tool calls are written for models, by globs of their names."""
    context_diet: dict[str, bool] = {}
    """Whether prompts that are too long are shortened before turns are dropped (tools, old results
    and calls), by globs of models' names; on by default, `"*" = false` turns it off."""

    _files: tuple[SettingsFile, ...] = PrivateAttr(())
    _sources: SettingsSources | None = PrivateAttr(None)

    @property
    def file(self) -> SettingsFile | None:
        """The first file that they were read from; None where they come from no file."""
        return next(iter(self._files), None)

    @property
    def files(self) -> tuple[SettingsFile, ...]:
        """The files that they were read from, in order: the operator's and the page's."""
        return self._files

    @property
    def sources(self) -> SettingsSources | None:
        """Where they were read, to read them again; None for settings that were made in Python."""
        return self._sources

    def read_from(self, files: Sequence[SettingsFile], sources: SettingsSources) -> Config:
        """Note where they were read; itself."""
        self._files, self._sources = tuple(files), sources
        return self

    def alias_targets(self) -> dict[str, str]:
        """What each alias stands for."""
        return {name: alias.model for name, alias in self.aliases.items()}

    def alias_places(self) -> dict[str, list[EndpointPlace]]:
        """The places to which aliases bind requests; without those that bind to none."""
        return {name: alias.places for name, alias in self.aliases.items() if alias.places}

    def says_where_chats_go(self) -> bool:
        """Whether a source names a place. If not, chats go to the public horde, by default."""
        is_named = "url" in self.horde.model_fields_set
        return bool(self.endpoints) or self.private_horde.enabled or is_named

    @model_validator(mode="after")
    def _guarded(self) -> Config:
        mode, keys = self.access.mode, self.access.keys
        if unknown := set(self.access.admins) - set(keys):
            raise ValueError(f"access.admins: there is no key {min(unknown)!r}")
        if same := self.access.duplicate_keys():
            raise ValueError(f"access.keys: {' and '.join(same)} are the same key")
        if keys and mode != "keys":
            raise ValueError("[access.keys] is not used unless access.mode = 'keys'")
        if mode is None and not self.server.is_local():
            raise ValueError(
                f"server.bind = {self.server.bind!r} is reachable from other machines: set "
                "access.mode to 'keys' (each client needs a key of yours), to 'passthrough' (each "
                "client pays with its own horde key) or to 'open' (everybody spends yours)"
            )
        return self

    @model_validator(mode="after")
    def _distinct(self) -> Config:
        number_unnamed(self.endpoints)
        private = ["private"] if self.private_horde.enabled else []
        names = [*(endpoint.label() for endpoint in self.endpoints), *private]
        if duplicates := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"two endpoints are called {min(duplicates)!r}: rename one of them")
        # Without any [[endpoints]], the public horde is the endpoint "horde".
        known = {*names, "horde"}
        for name, key in self.access.keys.items():
            if unknown := set(key.endpoints) - known:
                raise ValueError(
                    f"access.keys.{name}.endpoints: there is no endpoint {min(unknown)!r}"
                )
        return self

    @field_validator("formats")
    @classmethod
    def _known_formats(cls, formats: dict[str, str]) -> dict[str, str]:
        for glob, name in formats.items():
            if name not in FORMATS:
                raise ValueError(f"{glob!r}: no format {name!r}; use one of: {', '.join(FORMATS)}")
        return formats
