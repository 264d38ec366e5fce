"""A segment of a chat: the job that answers messages, or goes on with an answer to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from horde_proxy.aihorde.transcript import ChatResult
from horde_proxy.prompts.fit import Fitted
from horde_proxy.prompts.repetition import loops
from horde_proxy.prompts.tokens import count_within, estimate
from horde_proxy.upstreams.horde import chat
from horde_proxy.upstreams.horde.chat_tags import restored_result
from horde_proxy.upstreams.horde.jobs import Generation, JobKind
from horde_proxy.upstreams.horde.segment import Segment


@dataclass(frozen=True)
class ChatGeneration(Generation):
    """What a model wrote in one job of at most `max_length` tokens.

    `is_too_long`: nothing, because its server had no room for the chat.
    """

    result: ChatResult
    max_length: int
    is_too_long: bool = False

    @property
    def tokens(self) -> int:
        """As the server counted them; an estimate where it did not."""
        if self.result.usage is not None:
            # No server writes more than it was asked for, whatever a worker says.
            return min(self.result.usage["completion_tokens"], self.max_length)
        if self.result.finish_reason == "length":
            return self.max_length
        return count_within(written_text(self.result), self.max_length)


def written_text(result: ChatResult) -> str:
    """All that the model wrote, to estimate its tokens."""
    calls = "".join(call.name + call.arguments for call in result.calls.values())
    return result.reasoning + result.content + result.refusal + calls


def reasoning_tokens(result: ChatResult, tokens: int) -> int:
    """The tokens of the reasoning, which few servers count, of so many in all."""
    counted = (result.usage or {}).get("reasoning_tokens") or estimate(result.reasoning)
    return min(counted, tokens)


@dataclass(eq=False)
class ChatSegment(Segment[ChatGeneration]):
    """n continuations of `content` and `reasoning`, the answer so far.

    `may_loop`: content that repeats itself will do as well.
    """

    content: str = ""
    reasoning: str = ""
    may_loop: bool = False

    @property
    def kind(self) -> JobKind:
        return chat.STREAMED_CHAT_JOB if self.is_streamed else chat.CHAT_JOB

    @property
    def so_far_key(self) -> str:
        return f"{self.reasoning}\0{self.content}"

    def read(self, result: Mapping[str, Any]) -> ChatGeneration:
        return ChatGeneration(
            **self.maker(result),
            result=restored_result(chat.chat_result(result), self.plan.format),
            max_length=self.fitted.max_length,
            is_too_long=chat.is_too_long(result),
        )

    def is_good(self, generation: ChatGeneration) -> bool:
        if generation.is_too_long:
            return True
        is_first = not (self.content or self.reasoning)
        is_empty = is_first and not generation.result.written
        is_loop = not self.may_loop and loops(generation.result.content)
        return not (generation.is_censored or is_empty or is_loop)

    def tokens(self, generation: ChatGeneration) -> int:
        return generation.tokens

    def _fitted(self, max_length: int) -> Fitted:
        return self.plan.chat_fitted_to(self.content, self.reasoning, max_length)

    def _payload(self, n: int, options: Mapping[str, Any]) -> dict[str, Any]:
        plan = self.plan
        diet = plan.writer.diet
        return chat.to_payload(
            plan.request, plan.models, plan.format, self.fitted, diet, options, n
        )
