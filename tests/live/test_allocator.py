"""What the allocator is told. What that saves, tests/live/test_budgets.py measures."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest


def test_glibc_takes_the_size_from_which_blocks_are_given_back() -> None:
    """In a process of its own, since it cannot be undone."""
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("another C library")
    code = (
        "from horde_proxy.allocator import give_back_large_blocks as g; raise SystemExit(not g())"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
