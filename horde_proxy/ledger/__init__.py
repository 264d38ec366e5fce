"""The ledger: client keys, their limits, and what they used.

No Flask and no HTTP here. Only `database` and `schema` import SQLAlchemy. The other modules do not
import these two, so that a proxy without a database does not load SQLAlchemy.
"""

from horde_proxy.ledger.keyring import KeyRing
from horde_proxy.ledger.keys import ClientKey, new_key
from horde_proxy.ledger.limits import DayBudget, KeyLimits
from horde_proxy.ledger.records import DayUsage, Usage
from horde_proxy.ledger.usage import UsageRecorder

__all__ = [
    "ClientKey",
    "DayBudget",
    "DayUsage",
    "KeyLimits",
    "KeyRing",
    "Usage",
    "UsageRecorder",
    "new_key",
]
