"""How modules begin, how long functions are, and that a class name is used once.

import-linter holds who may import whom.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "horde_proxy"


@cache
def modules() -> dict[str, ast.Module]:
    """The syntax of all modules, by path."""
    paths = sorted(PACKAGE.rglob("*.py"))
    return {str(path.relative_to(PACKAGE)): ast.parse(path.read_text()) for path in paths}


@cache
def statements() -> list[tuple[str, ast.stmt]]:
    """All statements of all modules, with the module's path. Expressions would be most nodes."""
    return [(path, node) for path, module in modules().items() for node in statements_in(module)]


def statements_in(node: ast.AST) -> Iterator[ast.stmt]:
    for field in ("body", "handlers", "orelse", "finalbody", "cases"):
        for child in getattr(node, field, ()):
            if isinstance(child, ast.stmt):
                yield child
            yield from statements_in(child)


@cache
def lengths() -> dict[str, int]:
    """The lines of all functions without their docstrings."""
    return {
        f"{path}:{node.lineno} {node.name}": length_of(node)
        for path, node in statements()
        if isinstance(node, ast.FunctionDef)
    }


def length_of(function: ast.FunctionDef) -> int:
    assert function.end_lineno is not None
    documentation = ast.get_docstring(function, clean=False) or ""
    return function.end_lineno - function.lineno + 1 - len(documentation.splitlines())


def test_a_module_says_what_it_is() -> None:
    assert [path for path, module in modules().items() if not ast.get_docstring(module)] == []


def test_no_function_is_longer_than_forty_lines() -> None:
    assert {name: length for name, length in lengths().items() if length > 40} == {}


def test_nine_functions_in_ten_have_at_most_twenty_lines() -> None:
    short = [name for name, length in lengths().items() if length <= 20]
    assert len(short) >= 0.9 * len(lengths())


def test_a_class_name_is_used_once() -> None:
    counts = Counter(node.name for _, node in statements() if isinstance(node, ast.ClassDef))
    assert [name for name, count in counts.items() if count > 1] == []
