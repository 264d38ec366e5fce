"""Whether a proxy has settings of its own, or is to be led through its first ones. No I/O."""

from __future__ import annotations

from horde_proxy.aihorde.rest import ANONYMOUS_KEY
from horde_proxy.config.settings import Config


def is_unconfigured(config: Config) -> bool:
    """Whether nothing is set that says whom the proxy serves, or who answers.

    Where it listens and keeps its data does not count: a container's environment says that before
    anybody has chosen anything.
    """
    horde = config.horde
    return not (
        config.files
        or config.says_where_chats_go()
        or horde.api_key != ANONYMOUS_KEY
        or config.access.keys
        or config.access.mode == "passthrough"
        or config.aliases
        or config.fallbacks
    )
