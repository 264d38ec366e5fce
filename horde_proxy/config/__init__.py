"""The settings: their names and rules, and the sources that they come from.

Only `app` and `commands` read them; every other room is given plain values. A setting is a field
with its description below it, from which docs/settings.md is generated (reference.py).
"""

from horde_proxy.config.access import AccessSettings, KeySettings
from horde_proxy.config.endpoints import EndpointSettings
from horde_proxy.config.errors import ConfigError
from horde_proxy.config.exposure import Exposure, exposures, warn_of_exposures
from horde_proxy.config.file import file_version
from horde_proxy.config.handover import SettingsHandover
from horde_proxy.config.hordes import CacheSettings, HordeSettings, StatsSettings
from horde_proxy.config.origins import Origin
from horde_proxy.config.reload import reasons_to_restart
from horde_proxy.config.settings import Config
from horde_proxy.config.sources import file_of, load, load_with_origins
from horde_proxy.config.values import is_loopback

__all__ = [
    "AccessSettings",
    "CacheSettings",
    "Config",
    "ConfigError",
    "EndpointSettings",
    "Exposure",
    "HordeSettings",
    "KeySettings",
    "Origin",
    "SettingsHandover",
    "StatsSettings",
    "exposures",
    "file_of",
    "file_version",
    "is_loopback",
    "load",
    "load_with_origins",
    "reasons_to_restart",
    "warn_of_exposures",
]
