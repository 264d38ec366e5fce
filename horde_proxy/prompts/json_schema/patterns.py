"""Regular expressions of clients, searched for only where the search is sure to end soon.

Python's `re` backtracks: a pattern like ^(a+)+$ takes 2**n steps for n letters that do not match.
"""

from __future__ import annotations

import re

_LONGEST_PATTERN = 200
"""Characters. The count below looks at the whole pattern once for each group in it."""
_MOST_STEPS = 10_000_000
"""Steps of one search: `re` takes a few tenths of a second for them."""


def pattern_matches(pattern: str, text: str) -> bool | None:
    """Whether a pattern is found in a text; None where the search could take too long."""
    quantifiers = quantifier_count(pattern)
    if quantifiers is None or max(len(text), 2) ** quantifiers > _MOST_STEPS:
        return None
    try:
        return re.search(pattern, text) is not None
    except (re.error, RecursionError, OverflowError):
        return None


def quantifier_count(pattern: str) -> int | None:
    """How many parts of a pattern vary in length; None where they are nested: (a+)+, (a|b)*.

    A text of n characters takes about n to the power of that many steps.
    """
    # Not understood below: (?P=name), a named backreference, and (?(1)a|b), a condition.
    if len(pattern) > _LONGEST_PATTERN or re.search(r"\(\?(?:P=|\()", pattern):
        return None
    # \1 repeats something of any length: write it as a nested quantifier.
    bare = re.sub(r"\\[0-9]", "(*)*", pattern)
    # \d, \* and [a-z+*], []a], [^)]: one character each, whatever signs are in it.
    bare = re.sub(r"\\.|\[\^?\]?[^\]]*\]", "a", bare, flags=re.DOTALL)
    # (?:a), (?=a), (?!a), (?<=a), (?<!a), (?P<name>a): groups like any other.
    bare = re.sub(r"\(\?(?:[:=!]|<[=!]|P<\w*>)", "(", bare)
    # a{3} has one length; after a group it may multiply what is in it, so that stays.
    bare = re.sub(r"(?<!\))\{[0-9]{1,3}\}", "", bare)
    while True:
        # The innermost group and the quantifier after it: "(a|b)+" in "x(a|b)+".
        group = re.search(r"\(([^()]*)\)([*+{]?)", bare)
        if group is None:
            break
        if group[2] and re.search(r"[*+?{|]", group[1]):
            return None
        bare = bare[: group.start()] + group[1] + group[2] + bare[group.end() :]
    # A search may begin anywhere, which is one more thing that varies.
    return len(re.findall(r"[*+?{|]", bare)) + (not pattern.startswith("^"))
