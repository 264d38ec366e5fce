"""What real clients sent, in files: tests/live writes them, test_client_requests.py sends them.

So that the files stay small and show nothing of the machine, long texts are cut, and folders and
random ids get fixed names. An id of an earlier answer is written as "{answer N id M}".
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

RECORDINGS = Path(__file__).parent / "data" / "client_requests"

_LONGEST = 300
"""Characters of a text; prompts and descriptions of agents have thousands."""

# "resp_68a1...", "call_x8Zb...": the ids that the proxy gives, in all its APIs.
_ID = re.compile(r"\b(?:resp|msg|rs|fc|ctc|call|toolu|chatcmpl)_[0-9A-Za-z]{8,}")
# "0199a5c2-7d1e-7f60-a1b2-c3d4e5f60718": sessions, threads and installations of agents.
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.I)
# "ses_5f3a..." of opencode; 64 hexadecimal digits: Claude Code's device.
_SESSION = re.compile(r"\bses_[0-9A-Za-z]+|\b[0-9a-f]{64}\b")
# "OS Version: Linux 6.1.0": Claude Code's.
_SYSTEM = re.compile(r"OS Version: [^\n]*")
# "{answer 1 id 2}": the second id of the first answer.
_PLACE = re.compile(r"\{answer (\d+) id (\d+)\}")


def write(
    name: str, calls: Sequence[Any], answers: Sequence[str], names: Mapping[str, str]
) -> None:
    """Record calls, without the ids of their answers; `names` has other names for folders."""
    tidy = [_tidied(call, names, answers[:index]) for index, call in enumerate(calls)]
    RECORDINGS.mkdir(exist_ok=True)
    # A line for each call.
    lines = ",\n".join(json.dumps(call, ensure_ascii=False) for call in tidy)
    (RECORDINGS / f"{name}.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def _tidied(value: Any, names: Mapping[str, str], answers: Sequence[str]) -> Any:
    if isinstance(value, dict):
        return {key: _tidied(item, names, answers) for key, item in value.items()}
    if isinstance(value, list):
        return [_tidied(item, names, answers) for item in value]
    if not isinstance(value, str):
        return value
    for old, new in names.items():
        value = value.replace(old, new)
    for number, answer in enumerate(answers, 1):
        for index, known in enumerate(ids_of(answer), 1):
            value = value.replace(known, f"{{answer {number} id {index}}}")
    value = _SYSTEM.sub("OS Version: Linux", value)
    value = _SESSION.sub("session", _UUID.sub("00000000-0000-4000-8000-000000000000", value))
    return value if len(value) <= _LONGEST else value[:_LONGEST] + " [cut]"


def ids_of(answer: str) -> list[str]:
    """The ids in an answer, each once, in their order."""
    return list(dict.fromkeys(_ID.findall(answer)))


def with_ids(value: Any, answers: Sequence[str]) -> Any:
    """The value with the ids of these answers in their places."""
    if isinstance(value, dict):
        return {key: with_ids(item, answers) for key, item in value.items()}
    if isinstance(value, list):
        return [with_ids(item, answers) for item in value]
    if not isinstance(value, str):
        return value
    return _PLACE.sub(lambda place: ids_of(answers[int(place[1]) - 1])[int(place[2]) - 1], value)
