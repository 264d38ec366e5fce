"""Reads a model's completion for one leaf as the value that it means.

A completion may repeat the quote at the end of the prompt, continue after the value, or answer in
words. Workers may return the stop string with the text. Pure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from difflib import SequenceMatcher

from horde_proxy.prompts.json_schema.shapes import Text
from horde_proxy.prompts.json_schema.string_formats import formatted_parts

TEXT_STOPS = ('"', "\n")
VALUE_STOPS = (",", "}", "\n", "]")
_LONGEST_COMPARED = 200
"""Characters. Finding the most similar choice takes quadratic time."""
_LEAST_SIMILARITY = 0.6
"""A misspelt choice is more similar than that, other words are not: the limit of difflib, too."""
# The quote that ends a string, after an even number of backslashes, or a line break.
_TEXT_END = re.compile(r'(?<!\\)(?:\\\\)*"|\n')
# A backslash with the rest of its escape if JSON has it: \n, \u00e9; in \d only the backslash.
_ESCAPE = re.compile(r'\\(["\\/bfnrt]|u[0-9a-fA-F]{4})?')
# 3, -12, 0.5, .5, 1e-3 anywhere: "about 3 days"
_NUMBER = re.compile(r"-?(?:[0-9]{1,18}(?:\.[0-9]{1,18})?|\.[0-9]{1,18})(?:[eE][+-]?[0-9]{1,2})?")
# All that is left, up to the quote that ends it, of a model that does not go on but starts over:
# {"city": "Oslo"}, ```json, <think>, <tool_call>
_NEW_START = re.compile(r"[{\[]+|```\w*|<(?:think|tool_call)>")
_SPOKEN = {"yes": "true", "1": "true", "no": "false", "0": "false"}


def without_echoed_quote(completion: str) -> str:
    """The text without a repetition of the quote that the prefill ends with."""
    text = completion.lstrip()
    # A quote directly before , } ] : or the end closes an empty string.
    is_echo = text.startswith('"') and not re.match(r'"\s*(?:[,}\]:"]|\Z)', text)
    return text[1:].lstrip() if is_echo else text


def read_text(raw: str) -> tuple[str, bool]:
    """(the string before the closing quote, whether it stopped at an escaped quote)."""
    end = _TEXT_END.search(raw)
    if end is not None:
        return _decoded(raw[: end.end() - 1]).rstrip(), False
    # The stop string, here an escaped quote, may have been left in the text or not.
    body = raw.removesuffix('"')
    if (len(body) - len(body.rstrip("\\"))) % 2:
        return _decoded(body[:-1]), True
    return _decoded(body).rstrip(), False


def _decoded(raw: str) -> str:
    """The string in the inside of a JSON string. A backslash that escapes nothing stays."""
    escaped = _ESCAPE.sub(lambda match: match[0] if match[1] else r"\\", raw)
    text = str(json.loads(f'"{escaped}"', strict=False))
    # Half a surrogate pair (\ud83d alone) cannot be sent as UTF-8.
    return text.encode("utf-8", "replace").decode()


def fitting_text(shape: Text, value: str) -> str | None:
    """The value, or a part of it, if it fits the shape; else None.

    None also for what is no value but the beginning of a new answer.
    """
    if _NEW_START.fullmatch(value.strip()):
        return None
    parts = list(formatted_parts(shape.format, value)) if shape.format else []
    for text in (value, shape.shortened(value), *parts):
        if text and shape.takes(text):
            return text
    return None


def read_number(completion: str) -> float | None:
    """The first number in a text, as an int if it has no decimals; None without one."""
    match = _NUMBER.search(_cut(completion, VALUE_STOPS))
    if match is None:
        return None
    whole = re.fullmatch(r"-?[0-9]+", match[0])
    return int(match[0]) if whole else float(match[0]) + 0.0  # -0.0 becomes 0.0


def _cut(completion: str, stops: Sequence[str]) -> str:
    """The text before the first stop string, which a worker may have left in."""
    text = completion.lstrip()
    return text[: min((text.index(stop) for stop in stops if stop in text), default=len(text))]


def read_choice(completion: str, stops: tuple[str, ...]) -> str:
    """The text of a completion for a choice, without its quotes."""
    if stops is VALUE_STOPS:
        return _cut(completion, stops).strip()
    text = without_echoed_quote(completion)
    end = _TEXT_END.search(text)
    return (text[: end.end() - 1] if end else text).strip()


def closes_at_once(completion: str) -> bool:
    """Whether a model wrote the end of an empty string, and did not just say nothing."""
    return without_echoed_quote(completion).startswith('"')


def closest_choice(completion: str, texts: Sequence[str]) -> int | None:
    """The index of the meant text: the same, a beginning, a word of it, or a similar one.

    None if the completion means none of them: it is empty, or prose.
    """
    if completion in texts:
        return texts.index(completion)
    meant, keys = _key(completion), [_key(text) for text in texts]
    # Models answer a boolean in words: "Yes, it is".
    if keys == ["true", "false"]:
        meant = _SPOKEN.get(" ".join(re.findall(r"\w+", meant)[:1]), meant)
    if not meant:
        return None
    ranked = (
        [i for i, key in enumerate(keys) if key == meant],
        [i for i, key in enumerate(keys) if key.startswith(meant)],
        sorted(
            (i for i, key in enumerate(keys) if _place(key, meant) is not None),
            # The first of the choices that are in the text; of "dark red" and "red", the longer.
            key=lambda i: (_place(keys[i], meant), -len(keys[i])),
        ),
        [i for i, key in enumerate(keys) if _place(meant, key) is not None],
        sorted(
            (i for i, key in enumerate(keys) if _similarity(key, meant) >= _LEAST_SIMILARITY),
            key=lambda i: -_similarity(keys[i], meant),
        ),
    )
    return next((indexes[0] for indexes in ranked if indexes), None)


def _place(words: str, text: str) -> int | None:
    """Where whole words are in a text; None if they are not. "C" is not in "cannot"."""
    match = re.search(rf"(?<!\w){re.escape(words)}(?!\w)", text) if words else None
    return match.start() if match else None


def _similarity(first: str, second: str) -> float:
    return SequenceMatcher(None, first, second).ratio()


def _key(text: str) -> str:
    """A text as it is compared."""
    return text.strip().strip('"').casefold()[:_LONGEST_COMPARED]


def quoted_from(value: str, source: str) -> str | None:
    """The value as it is written in `source`, in upper or lower case; None if it is missing."""
    position = source.casefold().find(value.casefold())
    # Some letters become two when folded (ß). Then positions differ, and nothing is returned.
    if not value or position < 0 or len(source.casefold()) != len(source):
        return None
    return source[position : position + len(value)]
