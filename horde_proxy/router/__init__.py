"""Routing: from a model's name to the endpoints that offer it, and failover between them.

`Router` resolves a name to candidates, the best first; `failover` tries them in this order. The
room knows no kind of upstream, no wire format and no HTTP framework.
"""

from horde_proxy.router.candidates import Candidates
from horde_proxy.router.circuit_breaker import CircuitBreaker
from horde_proxy.router.endpoint import Endpoint
from horde_proxy.router.router import Router
from horde_proxy.router.scope import EVERYTHING, Scope

__all__ = [
    "EVERYTHING",
    "Candidates",
    "CircuitBreaker",
    "Endpoint",
    "Router",
    "Scope",
]
