"""Draws the next token from logits, by the sampling parameters of horde payloads.

The order is KoboldCpp's default (sampler_order [6, 0, 1, 3, 4, 2, 5]): rep_pen, top_k, top_p with
min_p, temperature last. It knows no text and no network; callers pass a random generator.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from horde_proxy.worker.llama.gguf_file import Array

_COLDEST = 0.01
"""Below this temperature, the best token is taken: it would be drawn nearly always."""

_INTEGERS = {"top_k", "rep_pen_range"}


@dataclass(frozen=True, slots=True)
class Sampler:
    """The settings of one generation. The defaults apply to parameters that a payload lacks.

    The default temperature is low because a small model writes nonsense at a higher one.
    """

    temperature: float = 0.2
    top_k: int = 100
    """0 for no limit."""
    top_p: float = 0.9
    """1 for no limit."""
    min_p: float = 0.0
    """The share of the best token's probability that a token needs; 0 for no limit."""
    rep_pen: float = 1.0
    """1 for no penalty."""
    rep_pen_range: int = 256
    """The number of latest tokens that are penalised, those of the prompt included."""

    @classmethod
    def from_payload(cls, payload: Mapping[str, Any]) -> Self:
        """The settings in a horde payload. Other keys and nulls are ignored."""
        settings: dict[str, Any] = {
            field.name: (int if field.name in _INTEGERS else float)(payload[field.name])
            for field in fields(cls)
            if payload.get(field.name) is not None
        }
        return cls(**settings)

    def choose(self, logits: Array, latest: Sequence[int], generator: np.random.Generator) -> int:
        """One token id; `latest` are the ids so far, of prompt and generation."""
        ids, probabilities = self.distribution(logits, latest)
        steps = np.cumsum(probabilities)
        drawn = np.searchsorted(steps, generator.random() * steps[-1], side="right")
        return int(ids[min(drawn, len(ids) - 1)])

    def distribution(
        self, logits: Array, latest: Sequence[int]
    ) -> tuple[npt.NDArray[np.intp], Array]:
        """(ids that may come next, their probabilities), the most probable first."""
        logits = self._penalised(logits, latest)
        if self.temperature < _COLDEST or self.top_k == 1:
            return np.array([logits.argmax()]), np.ones(1, np.float32)
        ids = _best_first(logits, self.top_k)
        ids = ids[: self._count_kept(_softmax(logits[ids]))]
        return ids, _softmax(logits[ids] / np.float32(self.temperature))

    def _penalised(self, logits: Array, latest: Sequence[int]) -> Array:
        """The logits, with the latest tokens made less likely (CTRL, arXiv 1909.05858).

        Positive logits are divided, negative ones multiplied: dividing a negative logit would make
        its token more likely.
        """
        if self.rep_pen == 1.0 or self.rep_pen_range <= 0:
            return logits
        seen = np.unique(np.asarray(latest[-self.rep_pen_range :], np.intp))
        logits = logits.copy()
        logits[seen] *= np.where(logits[seen] > 0, 1 / self.rep_pen, self.rep_pen)
        return logits

    def _count_kept(self, probabilities: Array) -> int:
        """How many of the falling probabilities top_p and min_p keep; at least one."""
        count = len(probabilities)
        if self.top_p < 1:
            count = int(np.searchsorted(np.cumsum(probabilities), self.top_p)) + 1
        if self.min_p > 0:
            count = min(count, int(np.sum(probabilities >= self.min_p * probabilities[0])))
        return max(1, count)


def _best_first(logits: Array, top_k: int) -> npt.NDArray[np.intp]:
    """The top_k ids with the highest logits, the highest first; all ids for 0."""
    # A partial sort is faster: each token of the vocabulary has a logit, 49,152 in SmolLM2.
    if not 0 < top_k < len(logits):
        return np.argsort(-logits, kind="stable")
    best = np.argpartition(-logits, top_k - 1)[:top_k]
    return best[np.argsort(-logits[best], kind="stable")]


def _softmax(logits: Array) -> Array:
    weights: Array = np.exp(logits - logits.max())
    weights /= weights.sum()
    return weights
