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


def functions() -> Iterator[tuple[str, ast.FunctionDef]]:
    for path, module in modules().items():
        for node in ast.walk(module):
            if isinstance(node, ast.FunctionDef):
                yield path, node


def test_a_module_says_what_it_is() -> None:
    assert [path for path, module in modules().items() if not ast.get_docstring(module)] == []


def test_no_function_is_longer_than_forty_lines() -> None:
    lengths = {f"{path} {function.name}": length_of(function) for path, function in functions()}
    assert {name: length for name, length in lengths.items() if length > 40} == {}


def test_nine_functions_in_ten_have_at_most_twenty_lines() -> None:
    lengths = [length_of(function) for _, function in functions()]
    assert sum(length <= 20 for length in lengths) >= 0.9 * len(lengths)


def length_of(function: ast.FunctionDef) -> int:
    """Lines without the docstring."""
    assert function.end_lineno is not None
    documentation = ast.get_docstring(function, clean=False) or ""
    return function.end_lineno - function.lineno + 1 - len(documentation.splitlines())


def test_a_class_name_is_used_once() -> None:
    counts = Counter(
        node.name
        for module in modules().values()
        for node in ast.walk(module)
        if isinstance(node, ast.ClassDef)
    )
    assert [name for name, count in counts.items() if count > 1] == []
