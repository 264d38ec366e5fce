"""Paths that a server does not have."""

from __future__ import annotations

from horde_proxy.router.missing_paths import MissingPaths
from tests.support import Clock


def test_a_missing_path_is_remembered_for_a_while_for_its_model() -> None:
    clock = Clock()
    missing = MissingPaths(clock)
    assert not missing.has("responses", "a")
    missing.add("responses?x=1", "a")
    assert missing.has("responses", "a") and missing.has("responses?y=2", "a")
    assert not missing.has("responses", "b") and not missing.has("messages", "a")
    clock.sleep(601)
    assert not missing.has("responses", "a")
