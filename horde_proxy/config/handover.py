"""The settings in use, where a worker process that replaces a killed one finds them.

The memory is shared by the processes that gunicorn forks: the master makes it and never reads it,
one worker writes and reads it. It holds keys, and so is never a file.
"""

from __future__ import annotations

import mmap
import pickle

from horde_proxy.config.errors import ConfigError
from horde_proxy.config.settings import Config

_ROOM = 16 * 1024 * 1024
"""Bytes for one version. Thousands of keys need one; pages that are not used cost nothing."""
_HEADER = 8
"""Bytes: how long the version is that follows."""


class SettingsHandover:
    """Holds two versions, of which one is valid: a worker may be killed while it writes."""

    def __init__(self, settings: Config) -> None:
        # The first byte is the number of the valid version.
        self._memory = mmap.mmap(-1, 1 + 2 * (_HEADER + _ROOM))
        self.write(settings)

    def write(self, settings: Config) -> None:
        """Keep the settings, instead of those before. Raises ConfigError for more than 16 MiB."""
        content = pickle.dumps(settings)
        if len(content) > _ROOM:
            raise ConfigError("the settings are larger than 16 MiB")
        number = 1 - self._memory[0]
        start = self._start(number)
        self._memory[start : start + _HEADER] = len(content).to_bytes(_HEADER, "big")
        self._memory[start + _HEADER : start + _HEADER + len(content)] = content
        self._memory[0] = number

    def read(self) -> Config:
        """The settings that were written last."""
        start = self._start(self._memory[0]) + _HEADER
        length = int.from_bytes(self._memory[start - _HEADER : start], "big")
        # Only write() writes to this memory, which no other process has.
        settings: Config = pickle.loads(self._memory[start : start + length])  # noqa: S301
        return settings

    def _start(self, number: int) -> int:
        return 1 + number * (_HEADER + _ROOM)
