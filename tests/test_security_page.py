"""The numbers in docs/security.md are those of the code."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

from horde_proxy.config import Config
from horde_proxy.config.endpoints import EndpointSettings

PAGE = Path(__file__).parent.parent / "docs" / "security.md"


def budgets() -> list[tuple[str, str, str]]:
    """(the constant or setting, the bound as text, what is in the last column) of each row."""
    text = PAGE.read_text(encoding="utf-8").partition("\n## Budgets\n")[2].partition("\n## ")[0]
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in row] for row in rows]
    return [(where.strip("`"), bound, own) for _, bound, where, own in cells if "`" in where]


def value_of(where: str, is_setting: bool) -> Any:
    """The default of a setting such as server.places, or a constant of the package."""
    home, _, name = where.rpartition(".")
    if not is_setting:
        return getattr(importlib.import_module(f"horde_proxy.{home}"), name)
    section = EndpointSettings if home == "endpoints" else type(getattr(Config(), home))
    return section.model_fields[name].default


def test_the_page_has_many_budgets() -> None:
    assert len(budgets()) > 60


@pytest.mark.parametrize(
    ("where", "bound", "setting"), budgets(), ids=[where for where, _, _ in budgets()]
)
def test_a_budget_is_what_the_page_says(where: str, bound: str, setting: str) -> None:
    assert setting in ("", "yes")
    assert float(bound.split()[0].replace(",", "")) == float(value_of(where, setting == "yes"))


def test_the_page_is_linked_where_people_look() -> None:
    root = PAGE.parent.parent
    assert "(docs/security.md)" in (root / "README.md").read_text(encoding="utf-8")
    assert "(docs/security.md)" in (root / "SECURITY.md").read_text(encoding="utf-8")
    assert "(security.md)" in (root / "docs" / "operations.md").read_text(encoding="utf-8")
