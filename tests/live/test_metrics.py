"""Prometheus reads what /metrics says."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from tests.support import World
from tests.test_metrics import everything


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool comes with Debian's prometheus")
def test_promtool_has_nothing_to_say(world: World) -> None:
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=everything(world), text=True, capture_output=True
    )
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")
