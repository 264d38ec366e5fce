"""Fills in placeholders such as {{[INPUT]}}, which stand for the model's role tags. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

# "{{[SYSTEM]}}", "{{[INPUT_END]}}": KoboldCpp's placeholders, which KoboldAI Lite and we write.
_TAG = re.compile(r"\{\{\[(SYSTEM|INPUT|OUTPUT)(_END)?\]\}\}")


def fill(prompt: str, tags: Mapping[str, str]) -> str:
    """The prompt with the model's role tags. A turn without END tag ends at the next turn."""
    parts: list[str] = []
    open_role, position = "", 0
    for match in _TAG.finditer(prompt):
        parts.append(prompt[position : match.start()])
        position = match.end()
        role, ends = match.group(1), match.group(2)
        if open_role and (not ends or open_role != role):
            parts.append(tags[f"{open_role}_END"])
        open_role = "" if ends else role
        parts.append(tags[f"{role}_END"] if ends else tags[role])
    return "".join(parts) + prompt[position:]


def fill_payload(payload: Mapping[str, Any], tags: Mapping[str, str]) -> dict[str, Any]:
    """A job's payload with placeholders filled in; stop strings that become empty are left out."""
    stops = []
    for stop in payload.get("stop_sequence") or ():
        match = _TAG.fullmatch(stop)
        filled = tags["".join(filter(None, match.groups()))].strip() if match else stop
        if filled and filled not in stops:
            stops.append(filled)
    return {**payload, "prompt": fill(payload.get("prompt") or "", tags), "stop_sequence": stops}
