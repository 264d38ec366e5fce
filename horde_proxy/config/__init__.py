"""The settings, and where each comes from.

Read by create_app and the command line only; every other room is handed plain values.
"""

from horde_proxy.config.settings import (
    AccessSettings,
    CacheSettings,
    Config,
    EndpointSettings,
    HordeSettings,
    KeySettings,
    StatsSettings,
    is_loopback,
)
from horde_proxy.config.sources import ConfigError, file_of, load

__all__ = [
    "AccessSettings",
    "CacheSettings",
    "Config",
    "ConfigError",
    "EndpointSettings",
    "HordeSettings",
    "KeySettings",
    "StatsSettings",
    "file_of",
    "is_loopback",
    "load",
]
