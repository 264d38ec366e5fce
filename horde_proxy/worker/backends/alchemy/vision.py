"""Vision models behind OpenAI's chat API: they say in words what a picture shows."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import requests

from horde_proxy.aihorde.image_limits import MOST_TILES
from horde_proxy.pictures import Raster, as_data_url
from horde_proxy.worker.backends.alchemy.base import FormResult
from horde_proxy.worker.backends.base import BackendError
from horde_proxy.worker.backends.http_server import text_at
from horde_proxy.worker.backends.images.base import ImageOptions
from horde_proxy.worker.backends.images.checkpoints import Checkpoint
from horde_proxy.worker.backends.images.listing_server import ListingServer, listed

_MOST_PIXELS = 1024 * 1024
"""Models shrink larger pictures themselves; smaller ones are read, and sent, faster."""
# "<think>It seems to be ...</think>": models of the Qwen family write it in the text.
_THOUGHTS = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)
# "1. ", "- ", "* ": models make lists though they are told not to.
_BULLET = re.compile(r"^\s*(?:\d+[.)]|[-*•])\s*")
_MOST_TAGS, _LONGEST_TAG = 50, 80
_THINKING_TOKENS = 1000
"""What a model that thinks may write before its answer; others end by themselves."""
_GROUPS = ("sites", "artists", "flavors", "mediums", "movements", "techniques")
"""The groups of an interrogation besides its tags. A vision model does not tell them apart."""


@dataclass(frozen=True)
class _Instruction:
    """What a model is told for a form, and how many tokens its answer may have."""

    text: str
    max_tokens: int


_INSTRUCTIONS: Mapping[str, _Instruction] = {
    "caption": _Instruction(
        "Write a caption for this picture: one sentence that says what it shows. "
        "Answer with the caption only.",
        120,
    ),
    "describe": _Instruction(
        "Describe this picture for somebody who cannot see it: what it shows, where things are, "
        "colours and style. Quote any text in it exactly. Answer with the description only.",
        600,
    ),
    "interrogation": _Instruction(
        "List up to thirty short tags for this picture: objects, people, place, style, medium, "
        "colours, mood. Answer with the tags only, separated by commas, the most important first.",
        300,
    ),
    "nsfw": _Instruction(
        "Does this picture show nudity, sexual acts or gore? Answer with one word: yes or no.", 10
    ),
}


class VisionServer(ListingServer):
    """A server of a vision model."""

    forms = frozenset(_INSTRUCTIONS)
    max_tiles = MOST_TILES

    def __init__(self, url: str, session: requests.Session, model: Checkpoint) -> None:
        super().__init__(url, session)
        self.name, self._model = model.name, model.title

    @classmethod
    def open(cls, name: str, options: ImageOptions) -> VisionServer | None:
        """The server at a URL; None where there is none. Raises BackendError."""
        opened = listed(name, options)
        if opened is None:
            return None
        url, session, [model, *_] = opened
        server = cls(url, session, model)
        options.report(f"Vision model {model.title} at {server.shown_url}")
        return server

    def transform(
        self, form: str, source: Raster, payload: Mapping[str, Any], cancelled: Callable[[], bool]
    ) -> FormResult:
        """What the model says of the picture, as the form has it. Raises BackendError."""
        instruction = _INSTRUCTIONS[form]
        picture = source.within(_MOST_PIXELS).encoded("jpeg")
        content = [
            {"type": "text", "text": instruction.text},
            {"type": "image_url", "image_url": {"url": as_data_url(picture, "jpeg")}},
        ]
        body = {
            "model": self._model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": instruction.max_tokens + _THINKING_TOKENS,
            "temperature": 0.2,
        }
        answer = self.post("/v1/chat/completions", body, cancelled)
        text = _THOUGHTS.sub("", text_at(answer, "choices", 0, "message", "content")).strip()
        return _result(form, text)


def _result(form: str, text: str) -> FormResult:
    """The value of a form by what a model wrote. Raises BackendError."""
    if not text:
        raise BackendError("the vision model wrote nothing")
    if form == "interrogation":
        return _interrogation(text)
    if form == "nsfw":
        return _is_yes(text)
    return " ".join(text.split()) if form == "caption" else text


def _interrogation(text: str) -> Mapping[str, Any]:
    """Tags, in the shape of AI-Horde's alchemists. A model gives no confidences: all are 1."""
    parts = [_BULLET.sub("", part).strip(" .\"'") for part in re.split(r"[,\n]", text)]
    # Without the doubles, in their order.
    tags = list(dict.fromkeys(part[:_LONGEST_TAG] for part in parts if part))[:_MOST_TAGS]
    return {
        "tags": [{"text": tag, "confidence": 1.0} for tag in tags],
        **{group: [] for group in _GROUPS},
    }


def _is_yes(text: str) -> bool:
    """Whether the answer is yes. Raises BackendError for what is neither: nobody must guess."""
    words = re.findall(r"[a-z]+", text.lower())
    if "yes" in words and "no" not in words:
        return True
    if "no" in words and "yes" not in words:
        return False
    raise BackendError("the vision model did not say yes or no")
