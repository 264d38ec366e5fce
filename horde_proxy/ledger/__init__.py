"""The ledger: client keys, what each may do, and what it used.

No Flask and no HTTP here. The database is in `store` alone, which this room's other modules
do not import: without a store SQLAlchemy is never loaded.
"""

from horde_proxy.ledger.keyring import KeyRing
from horde_proxy.ledger.keys import ClientKey, new_key
from horde_proxy.ledger.limits import KeyLimits
from horde_proxy.ledger.records import DayUsage, StoreError, Usage
from horde_proxy.ledger.usage import UsageRecorder

__all__ = [
    "ClientKey",
    "DayUsage",
    "KeyLimits",
    "KeyRing",
    "StoreError",
    "Usage",
    "UsageRecorder",
    "new_key",
]
