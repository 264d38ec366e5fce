"""A horde of your own: AI-Horde's text API in memory, for clients and workers at home.

It knows nothing of the proxy; it shares with it the facts in `aihorde` and a few modules of the
ground floor. `PrivateHorde` has a method for each route, `blueprint` serves them with Flask.
"""

from horde_proxy.private_horde.horde import OpenRequest, PrivateHorde
from horde_proxy.private_horde.views import blueprint

__all__ = ["OpenRequest", "PrivateHorde", "blueprint"]
