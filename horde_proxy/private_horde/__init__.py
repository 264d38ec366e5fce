"""A horde of your own: AI-Horde's API, for clients and workers at home.

It knows nothing of the proxy. Both use the facts in `aihorde` and a few modules such as
`key_digest` and `windows`. `PrivateHorde` has a method for each route; `blueprint` serves these
routes with Flask.
"""

from horde_proxy.private_horde.horde import OpenRequest, PrivateHorde
from horde_proxy.private_horde.operation import AccessRules
from horde_proxy.private_horde.views import blueprint

__all__ = ["AccessRules", "OpenRequest", "PrivateHorde", "blueprint"]
