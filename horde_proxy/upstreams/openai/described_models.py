"""A server's model entries with the facts of each model, learned in the background.

    get()  first   the server's list, which its upstream loads in the background
           then    the facts, which a thread learns; the first time waits for it, but not for long
           result  the entries with the facts: the same list as long as neither changes

What the server's own API tells never spoils the list: while it hangs or fails, entries have what
they say themselves, and what was known before.
"""

from __future__ import annotations

import contextlib
import ipaddress
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from horde_proxy.caching.background import BackgroundValue, in_background
from horde_proxy.caching.derived import Derived
from horde_proxy.errors import ProxyError
from horde_proxy.protocol.models import ModelFacts, facts_in, facts_of_name, with_facts
from horde_proxy.upstreams.openai.native_apis import Ask, ShownModels, kind_of, native_facts

ASK_SECONDS = 2.0
"""For one call to a server's own API (s): it only tells what it has in memory."""
_PATIENCE = 1.0
"""The longest that a list with new models waits for their facts (s)."""
_FACTS_TTL = 15.0
"""How long facts stay good (s), at most: a model may be loaded, or pulled, at any moment."""
_LOAD_SECONDS = 10.0
"""Seconds after which a load asks nothing more; the next one goes on where it ended."""

Facts = Mapping[str, ModelFacts]
_NO_FACTS: Facts = {}
_UNKNOWN = ModelFacts()
_NO_LIST: Sequence[dict[str, Any]] = ()

_HOME_DOMAINS = (".local", ".localhost", ".lan", ".home", ".internal", ".home.arpa", ".ts.net")
"""Names that only a home's or company's own network resolves (RFC 6762, RFC 8375); Tailscale's."""
_CARRIER_NETWORK = ipaddress.ip_network("100.64.0.0/10")
"""Tailscale's addresses; Python does not count them as private."""


class DescribedModels:
    """The entries of `listed`, which must return the same list until it changes, with facts.

    `ask` is a call to the server (see native_apis.Ask) that may raise a ProxyError. `is_free`: its
    models cost nothing. `ttl` is in seconds.
    """

    def __init__(
        self,
        listed: Callable[[], Sequence[dict[str, Any]]],
        ask: Ask,
        *,
        is_free: bool = False,
        ttl: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
        run: Callable[[Callable[[], None]], None] = in_background,
    ) -> None:
        self._listed, self._ask, self._is_free = listed, ask, is_free
        self._clock, self._shown = clock, ShownModels()
        # Of the loading thread; there is one at a time.
        self._last, self._read = _NO_FACTS, _NO_LIST
        # Of the threads that ask. Two may see a new list at once; both begin the same load.
        self._seen = _NO_LIST
        self._facts = BackgroundValue(
            self._load,
            ttl=min(ttl, _FACTS_TTL),
            patience=_PATIENCE,
            clock=clock,
            run=run,
        )
        self._entries: Derived[tuple[Sequence[dict[str, Any]], Facts], list[dict[str, Any]]]
        self._entries = Derived(self._source, self._described, clock=clock)

    def get(self) -> Sequence[dict[str, Any]]:
        """The entries. Raises the ProxyError of a list that could never be loaded."""
        return self._entries.get()

    def known(self, model: str) -> ModelFacts:
        """What is known of a model now, at most some seconds old. It never waits."""
        return (self._facts.peek() or _NO_FACTS).get(model, _UNKNOWN)

    def _source(self) -> tuple[Sequence[dict[str, Any]], Facts]:
        listed = self._listed()
        if listed is not self._seen:
            self._seen, known = listed, self._facts.peek()
            # A new model has no facts yet: worth the wait of a moment, once for each list.
            if known is not None and any(entry["id"] not in known for entry in listed):
                self._facts.refresh(min_interval=0.0)
        try:
            return listed, self._facts.get()
        except ProxyError:
            return listed, _NO_FACTS

    def _load(self) -> Facts:
        until, missed = self._clock() + _LOAD_SECONDS, list[str]()

        def ask(path: str, body: Mapping[str, Any] | None) -> Any:
            answer = None
            if self._clock() <= until:
                with contextlib.suppress(ProxyError):
                    answer = self._ask(path, body)
            if answer is None:
                missed.append(path)
            return answer

        listed = self._listed()
        if listed is self._read and kind_of(listed) is None:
            return self._last  # only the entries tell something, and they are the same
        self._read = listed
        facts = native_facts(ask, listed, self._shown)
        if missed:
            # What was loaded before may have been unloaded: a server that is down has nothing.
            facts = {
                model: replace(
                    known.completed_by(self._last.get(model, known)), is_loaded=known.is_loaded
                )
                for model, known in facts.items()
            }
        # The old object says that nothing changed.
        if facts != self._last:
            self._last = facts
        return self._last

    def _described(self, source: tuple[Sequence[dict[str, Any]], Facts]) -> list[dict[str, Any]]:
        entries, facts = source
        free = ModelFacts(is_free=self._is_free or None)
        return [
            with_facts(
                entry,
                facts_in(entry)
                .updated_by(facts.get(entry["id"]) or facts_of_name(entry["id"]))
                .completed_by(free),
            )
            for entry in entries
        ]


def is_at_home(url: str) -> bool:
    """Whether a server is one's own, by its address: this machine, or the network of the house.

    Such a server has no prices. A name without dots is a container's or a machine's.
    """
    host = (urlsplit(url).hostname or "").rstrip(".")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return bool(host) and ("." not in host or host.endswith(_HOME_DOMAINS))
    in_carrier = address.version == 4 and address in _CARRIER_NETWORK
    return address.is_private or address.is_loopback or address.is_link_local or in_carrier
