"""The documents of a horde: terms, privacy, sponsors. Each is Markdown, and HTML made of it.

An operator's own text replaces a short one that says what this software does. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import escape
from typing import Any

from horde_proxy.private_horde.errors import refusal

_FORMATS = ["html", "markdown"]

_TEXTS: Mapping[str, str] = {
    "terms": """# Terms

This is a private horde. Its operator has published no terms of its own: ask the operator, or a
moderator, what may be done here.""",
    "privacy": """# Privacy

This is a private horde, and its operator has published nothing else about it. Its software keeps:

- prompts and results, until 20 minutes after the last result or until the request is cancelled;
- accounts with their names and contacts, digests of their keys, workers with their last address,
  movements of kudos, and counts of jobs and tokens by account, until they are deleted.

The owner of a worker can read the prompts that it gets. Everybody can read the list of members,
with their names and kudos.""",
    "sponsors": """# Sponsors

This horde has no sponsors.""",
}
NAMES = tuple(_TEXTS)
"""The documents, as the paths below /v2/documents name them."""

_HEADING = re.compile(r"(#{1,6}) +(.*)")
"""A line such as "## Data"."""
_ITEM = re.compile(r"^[-*] +", re.MULTILINE)
"""The begin of an item of a list, "- " or "* "."""


def document(name: str, form: str, own: Mapping[str, str]) -> dict[str, Any]:
    """{"html": ...} or {"markdown": ...}. `own` are the operator's texts by name.

    Raises BadRequest (400) for another form (capture documents_bad_format).
    """
    if form not in _FORMATS:
        raise refusal("BadRequest", reason=f"'format' needs to be one of {_FORMATS}")
    text = own.get(name) or _TEXTS[name]
    return {form: text if form == "markdown" else _html(text)}


def _html(text: str) -> str:
    """Headings, lists and paragraphs of Markdown as HTML; all else is shown as it was written."""
    blocks = (block.strip() for block in re.split(r"\n\s*\n", text))
    return "\n".join(_block(block) for block in blocks if block)


def _block(block: str) -> str:
    if heading := _HEADING.fullmatch(block):
        level = len(heading[1])
        return f"<h{level}>{escape(heading[2])}</h{level}>"
    if _ITEM.match(block):
        items = (item.strip() for item in _ITEM.split(block) if item.strip())
        return "<ul>" + "".join(f"<li>{escape(item)}</li>" for item in items) + "</ul>"
    return f"<p>{escape(block)}</p>"
