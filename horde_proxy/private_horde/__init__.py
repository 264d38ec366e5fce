"""The private horde: AI-Horde's text API in memory, for workers and clients at home, and for tests.

It knows nothing of the proxy and imports nothing of it.
"""

from horde_proxy.private_horde.horde import OpenRequest, PrivateHorde
from horde_proxy.private_horde.views import blueprint

__all__ = ["OpenRequest", "PrivateHorde", "blueprint"]
