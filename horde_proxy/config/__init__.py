"""The settings, and where each comes from.

Read by create_app and the command line only; every other room is handed plain values.
"""

from horde_proxy.config.settings import (
    ANONYMOUS_KEY,
    CacheSettings,
    Config,
    HordeSettings,
    is_loopback,
)
from horde_proxy.config.sources import ConfigError, load

__all__ = [
    "ANONYMOUS_KEY", "CacheSettings", "Config", "ConfigError", "HordeSettings", "is_loopback",
    "load",
]
