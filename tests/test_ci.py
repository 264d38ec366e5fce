"""What CI makes of pip-audit's reports."""

from __future__ import annotations

import json
import runpy
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

AUDIT = str(Path(__file__).parent.parent / ".ci" / "audit")
SOUND = {"name": "flask", "version": "3.1.0", "vulns": []}
UNKNOWN = {"name": "horde-proxy", "skip_reason": "not found on PyPI"}
VULNERABLE = {
    "name": "requests",
    "version": "2.32.3",
    "vulns": [{"id": "PYSEC-2026-1", "fix_versions": ["2.32.4"]}],
}


def audited(monkeypatch: pytest.MonkeyPatch, *reports: list[Any] | None) -> int:
    """The status of an audit whose services give these lists of packages, or no report."""
    outputs = [json.dumps({"dependencies": report}) if report else "" for report in reports]
    answers = iter(outputs)
    monkeypatch.setattr(
        subprocess,
        "run",
        lambda *_, **__: SimpleNamespace(stdout=next(answers), stderr="ConnectionError: no"),
    )
    status: int = runpy.run_path(AUDIT)["main"]()
    return status


def test_a_vulnerability_fails_and_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audited(monkeypatch, [SOUND, VULNERABLE, UNKNOWN]) == 1
    assert capsys.readouterr().out == (
        "pypi: 2 packages audited, 1 unknown to it\n"
        "requests 2.32.3: PYSEC-2026-1, mended in 2.32.4\n"
    )


def test_sound_packages_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    assert audited(monkeypatch, [SOUND, UNKNOWN]) == 0


@pytest.mark.parametrize("first", [None, [UNKNOWN]], ids=["unreachable", "knows nothing"])
def test_the_second_source_is_used_where_the_first_has_nothing(
    monkeypatch: pytest.MonkeyPatch, first: list[Any] | None
) -> None:
    assert audited(monkeypatch, first, [VULNERABLE]) == 1


def test_without_data_it_says_that_nothing_was_audited(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audited(monkeypatch, None, [UNKNOWN]) == 0
    assert "NOT AUDITED" in capsys.readouterr().out
