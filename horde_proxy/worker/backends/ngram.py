"""A toy model that learns word triples from a small text in the package; it runs anywhere."""

from __future__ import annotations

import random
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from importlib.resources import files

from horde_proxy.prompts.tokens import estimate
from horde_proxy.worker.backends.base import BackendOptions, Payload
from horde_proxy.worker.backends.pieces import before_stop

_WORD = re.compile(r"\S+")
# Shorter words ("the", "and") say nothing about the topic.
_LETTERS = re.compile(r"[a-z]{4,}")
_SENTENCES = 3
"""Sentences in an answer: the toy model loses its topic after that."""
_WORD_SECONDS = 0.02
"""The time that a word takes: as fast as a good model, so that one sees how an answer grows."""


def open_ngram(name: str, options: BackendOptions) -> NGram | None:
    """The toy model for "ngram", else None."""
    return NGram(word_seconds=_WORD_SECONDS) if name == "ngram" else None


class NGram:
    """Writes sentences that sound like its corpus, on the topic of a word in the prompt."""

    name = "horde-proxy/ngram-demo"
    max_length = 512
    max_context_length = 8192
    tags = None

    def __init__(
        self,
        corpus: str | None = None,
        generator: random.Random | None = None,
        *,
        word_seconds: float = 0.0,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        text = corpus or (files("horde_proxy.worker") / "corpus.txt").read_text(encoding="utf-8")
        self._word_seconds, self._sleep = word_seconds, sleep
        # It chooses words, and no secrets.
        self._random = generator or random.Random()  # noqa: S311
        self._followers: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
        self._openings: list[tuple[str, str]] = []
        for paragraph in text.split("\n\n"):
            self._learn(_WORD.findall(paragraph))

    def generate(self, payload: Payload, cancelled: Callable[[], bool]) -> str:
        """A few sentences, at most max_length tokens (estimated), cut before a stop string."""
        return "".join(self.stream(payload, cancelled))

    def stream(self, payload: Payload, cancelled: Callable[[], bool]) -> Iterator[str]:
        """As `generate`, a word at a time."""
        yield from before_stop(self._spaced(payload, cancelled), payload.get("stop_sequence") or ())

    def _spaced(self, payload: Payload, cancelled: Callable[[], bool]) -> Iterator[str]:
        limit = int(payload.get("max_length") or 80)
        text = ""
        for word in self._words(str(payload.get("prompt") or "")):
            piece = f" {word}" if text else word
            text += piece
            if estimate(text) > limit or cancelled():
                return
            yield piece
            if self._word_seconds:
                self._sleep(self._word_seconds)

    def _learn(self, words: list[str]) -> None:
        """Count a paragraph's triples, and the first two words of each of its sentences."""
        starts = True
        for first, second, third in zip(words, words[1:], words[2:], strict=False):
            if starts:
                self._openings.append((first, second))
            self._followers[first, second].append(third)
            starts = _ends_sentence(first)

    def _words(self, prompt: str) -> Iterator[str]:
        pair = self._opening(prompt)
        yield from pair
        sentences = 0
        while pair in self._followers:
            word = self._random.choice(self._followers[pair])
            yield word
            pair = (pair[1], word)
            sentences += _ends_sentence(word)
            if sentences == _SENTENCES:
                return

    def _opening(self, prompt: str) -> tuple[str, str]:
        """The first two words of a sentence about a word of the prompt, or of any sentence."""
        topic = set(_LETTERS.findall(prompt.lower()))
        on_topic = [pair for pair in self._openings if topic & self._first_words(pair)]
        return self._random.choice(on_topic or self._openings)

    def _first_words(self, pair: tuple[str, str]) -> set[str]:
        return set(_LETTERS.findall(" ".join([*pair, *self._followers[pair]]).lower()))


def _ends_sentence(word: str) -> bool:
    return word.endswith((".", "!", "?"))
