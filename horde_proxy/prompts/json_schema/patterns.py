"""Regular expressions from clients. They are applied only if the search surely ends soon.

Python's `re` backtracks: a pattern like ^(a+)+$ takes 2**n steps for n letters that do not match.
"""

from __future__ import annotations

import re

_LONGEST_PATTERN = 200
"""Characters. The count below reads the whole pattern once for each group in it."""
_MOST_STEPS = 10_000_000
"""Steps of one search. `re` takes a few tenths of a second for this number."""


def pattern_matches(pattern: str, text: str) -> bool | None:
    """Whether a pattern is found in a text; None if the search could take too long."""
    steps = search_steps(pattern, text)
    if steps is None or steps > _MOST_STEPS:
        return None
    try:
        return re.search(pattern, text) is not None
    except (re.error, RecursionError, OverflowError):
        return None


def search_steps(pattern: str, text: str) -> int | None:
    """About how many steps a search may take; None for a pattern whose steps cannot be told."""
    quantifiers = quantifier_count(pattern)
    return None if quantifiers is None else int(max(len(text), 2) ** quantifiers)


def quantifier_count(pattern: str) -> int | None:
    """How many parts of a pattern vary in length; None if such parts are nested: (a+)+, (a|b)*.

    For a text of n characters and a result of k, a search takes about n**k steps.
    """
    # Not supported below: (?P=name), a named backreference, and (?(1)a|b), a condition.
    if len(pattern) > _LONGEST_PATTERN or re.search(r"\(\?(?:P=|\()", pattern):
        return None
    # \1 may have any length: it is replaced by a nested quantifier.
    bare = re.sub(r"\\[0-9]", "(*)*", pattern)
    # \d, \* and [a-z+*], []a], [^)] match one character each: they are replaced by a letter.
    bare = re.sub(r"\\.|\[\^?\]?[^\]]*\]", "a", bare, flags=re.DOTALL)
    # (?:a), (?=a), (?!a), (?<=a), (?<!a), (?P<name>a) count like any other group.
    bare = re.sub(r"\(\?(?:[:=!]|<[=!]|P<\w*>)", "(", bare)
    # a{3} has one length. After a group, {3} may multiply the group's content, so it stays.
    bare = re.sub(r"(?<!\))\{[0-9]{1,3}\}", "", bare)
    while True:
        # The innermost group and the quantifier after it: "(a|b)+" in "x(a|b)+".
        group = re.search(r"\(([^()]*)\)([*+{]?)", bare)
        if group is None:
            break
        if group[2] and re.search(r"[*+?{|]", group[1]):
            return None
        bare = bare[: group.start()] + group[1] + group[2] + bare[group.end() :]
    # A search may begin at any character, which counts as one more variable part.
    return len(re.findall(r"[*+?{|]", bare)) + (not pattern.startswith("^"))
