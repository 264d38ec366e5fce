"""Imports point one way; the pure rooms stay pure."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "horde_proxy"

# A room may import the rooms listed for it, and itself.
MAY_IMPORT = {
    "errors": set(),
    "naming": {"errors"},
    "version": set(),
    "shutdown": {"errors"},
    "logs": set(),
    "jsonc": set(),
    "opencode": {"jsonc"},
    "table": {"stats"},
    "protocol": {"errors"},
    "prompts": {"errors", "protocol"},
    "observing": set(),
    "metrics": {"observing"},
    "upstreams": {"errors", "naming", "observing", "version", "protocol", "prompts"},
    "ledger": {"errors"},
    "router": {"errors", "naming", "protocol", "upstreams"},
    "private_horde": set(),
    "stats": {"errors", "naming", "upstreams"},
    "worker": {"version", "prompts"},
    "api": {
        "errors",
        "ledger",
        "metrics",
        "opencode",
        "protocol",
        "upstreams",
        "router",
        "shutdown",
        "stats",
    },
    "config": {"prompts"},
    "listening": set(),
    "demo": {"config", "listening", "worker"},
    "serving": {"app", "config", "listening"},
    "": {"app", "config", "version"},
    "app": {
        "api",
        "assembly",
        "config",
        "ledger",
        "metrics",
        "private_horde",
        "router",
        "shutdown",
        "stats",
        "upstreams",
        "version",
    },
    "assembly": {"config", "horde_assembly", "observing", "shutdown", "stats", "upstreams"},
    "horde_assembly": {"assembly", "config", "observing", "shutdown", "stats", "upstreams"},
    "check": {"config", "errors", "upstreams"},
    "cli": {
        "check",
        "config",
        "jsonc",
        "ledger",
        "logs",
        "opencode",
        "version",
        "worker",
        "demo",
        "serving",
        "table",
    },
    "__main__": {"cli"},
}
FLASK_ONLY_IN = {"app", "api", "assembly", "private_horde", "serving"}
REQUESTS_ONLY_IN = {"assembly", "horde_assembly", "upstreams", "worker", "cli", "demo", "check"}
PROMETHEUS_ONLY_IN = {"metrics"}
# Whole rooms, and modules of rooms that have others too.
PURE = {
    "protocol",
    "prompts",
    "errors",
    "jsonc",
    "naming",
    "table",
    "stats/audit",
    "stats/combined",
    "stats/indexed",
    "stats/listing",
    "stats/merger",
    "stats/names",
    "stats/records",
    "stats/reference",
    "stats/statistics",
}
IMPURE_MODULES = {
    "flask",
    "werkzeug",
    "requests",
    "urllib3",
    "socket",
    "time",
    "datetime",
    "threading",
    "os",
    "pathlib",
    "random",
    "logging",
}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def module_of(path: Path) -> str:
    """ROOM or ROOM/MODULE; "" is the package itself."""
    module = path.relative_to(PACKAGE).with_suffix("").as_posix()
    return module.removesuffix("__init__").removesuffix("/")


def imported(source: str, room: str) -> set[str]:
    """Top-level names that a source imports; our own rooms as horde_proxy.ROOM."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level:
            found.add(f"horde_proxy.{room}")
        elif isinstance(node, ast.ImportFrom) and node.module == "horde_proxy":
            found.update(f"horde_proxy.{name.name}" for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def rooms_in(names: set[str]) -> set[str]:
    parts = [name.split(".") for name in names if name.split(".")[0] == "horde_proxy"]
    own = {part[1] if len(part) > 1 else "" for part in parts}
    return {"" if room in ("create_app", "reconfigure") else room for room in own}


def impure_neighbours(names: set[str], room: str) -> set[str]:
    """The modules of a room that only some of are pure, among the names, which are not."""
    own = {name.removeprefix("horde_proxy.") for name in names if f"horde_proxy.{room}." in name}
    return {name.replace(".", "/") for name in own} - PURE


def problems(source: str, module: str) -> list[str]:
    room = module.split("/")[0]
    names = imported(source, room)
    outside = {name.split(".")[0] for name in names}
    found = [f"room {other!r}" for other in rooms_in(names) - MAY_IMPORT[room] - {room}]
    if "flask" in outside and room not in FLASK_ONLY_IN:
        found.append("flask")
    if "requests" in outside and room not in REQUESTS_ONLY_IN:
        found.append("requests")
    if "prometheus_client" in outside and room not in PROMETHEUS_ONLY_IN:
        found.append("prometheus_client")
    if room in PURE or module in PURE:
        found += sorted(outside & IMPURE_MODULES)
    if room not in PURE and module in PURE:
        found += sorted(impure_neighbours(names, room))
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_what_its_room_may(path: Path) -> None:
    assert problems(path.read_text(), module_of(path)) == []


def test_a_protocol_module_that_imports_flask_is_found() -> None:
    assert problems("from flask import request", "protocol") == ["flask", "flask"]


def test_a_prompt_module_that_reads_a_clock_is_found() -> None:
    assert problems("import time", "prompts") == ["time"]


def test_a_pure_module_of_a_mixed_room_is_held_pure() -> None:
    assert problems("import time", "stats/merger") == ["time"]
    assert problems("import time", "stats/fetching") == []
    assert problems("from horde_proxy.stats.names import family", "stats/merger") == []
    assert problems("from horde_proxy.stats.fetching import get", "stats/merger") == [
        "stats/fetching"
    ]


def test_each_pure_module_is_there() -> None:
    assert {each for each in PURE if "/" in each} <= {module_of(path) for path in modules()}


def test_an_upstream_that_knows_prometheus_is_found() -> None:
    assert problems("from prometheus_client import Counter", "upstreams") == ["prometheus_client"]


def test_an_upstream_that_imports_the_front_is_found() -> None:
    assert problems("from horde_proxy.api import Front", "upstreams") == ["room 'api'"]


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_function_is_longer_than_forty_lines(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno is not None
            documentation = ast.get_docstring(node, clean=False) or ""
            length = node.end_lineno - node.lineno + 1 - len(documentation.splitlines())
            assert length <= 40, f"{node.name} has {length} lines"
