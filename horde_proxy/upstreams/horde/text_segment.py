"""A segment of a text: the job that continues a prompt with what was written so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from horde_proxy.prompts.answer import defect_in
from horde_proxy.prompts.fit import Fitted
from horde_proxy.prompts.tokens import estimate
from horde_proxy.upstreams.horde import text
from horde_proxy.upstreams.horde.jobs import Generation, JobKind
from horde_proxy.upstreams.horde.segment import Segment

_LONGEST_TOKEN = 256
"""Characters: the longest tokens of today's models are runs of 128 spaces or signs."""


@dataclass(frozen=True)
class TextGeneration(Generation):
    """A text, and the max_length of the request that it came from."""

    text: str
    max_length: int


@dataclass(eq=False)
class TextSegment(Segment[TextGeneration]):
    """n continuations of the text `so_far`.

    `may_loop`: a text that repeats itself will do as well.
    """

    so_far: str = ""
    may_loop: bool = False

    @property
    def kind(self) -> JobKind:
        return text.STREAMED_TEXT if self.is_streamed else text.TEXT

    @property
    def so_far_key(self) -> str:
        return self.so_far

    def read(self, result: Mapping[str, Any]) -> TextGeneration:
        most = self.fitted.max_length * _LONGEST_TOKEN
        return TextGeneration(
            **self.maker(result),
            text=str(result.get("text") or "")[:most],
            max_length=self.fitted.max_length,
        )

    def is_good(self, generation: TextGeneration) -> bool:
        defect = defect_in(generation.text, self.plan.format, is_first=not self.so_far)
        is_loop = defect == "loop" and not self.may_loop
        return not (generation.is_censored or defect in ("empty", "tags") or is_loop)

    def tokens(self, generation: TextGeneration) -> int:
        return min(estimate(generation.text), generation.max_length)

    def _fitted(self, max_length: int) -> Fitted:
        return self.plan.fitted_to(self.so_far, max_length)

    def _payload(self, n: int, options: Mapping[str, Any]) -> dict[str, Any]:
        plan = self.plan
        return text.to_payload(plan.request, plan.models, plan.format, self.fitted, options, n)
