"""Guided filling: a value of a schema, of which the model writes one leaf at a time.

The structure is written by prompts.guided, which yields a prompt for each leaf. What is added here
is the model: each leaf is a request of its own. The last resort, for its many requests.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from horde_proxy.prompts.end_tokens import cut, text_end
from horde_proxy.prompts.fit import LEAST_LENGTH
from horde_proxy.prompts.formats import neutralise, restore
from horde_proxy.prompts.guided import NOTHING, LeafPrompt, guided_fill
from horde_proxy.prompts.json_schema.validation import fits
from horde_proxy.prompts.leaf_texts import TEXT_STOPS, quoted_from
from horde_proxy.prompts.lenient_json import dumps
from horde_proxy.prompts.tokens import exceeds, truncate
from horde_proxy.protocol.generation_request import GenerationRequest, Message
from horde_proxy.upstreams.horde.answer_chain import AnswerItem
from horde_proxy.upstreams.horde.context import HordeContext
from horde_proxy.upstreams.horde.cost import AnswerCost
from horde_proxy.upstreams.horde.lifecycle import Finished, Grown, Lifecycle
from horde_proxy.upstreams.horde.plan import Plan
from horde_proxy.upstreams.horde.submit_queue import Ticket
from horde_proxy.upstreams.horde.text_segment import TextSegment

_SAMPLING = {"temperature": 0.0, "rep_pen": 1.0}
"""A value is copied, not made up; a repetition penalty would forbid to copy it."""
_TEMPERATURE_AGAIN = 0.7
"""At 0, the same model would write the same completion again."""
_FILL_IN = "You fill in values from what the user says."
# The name of the property at the end of a leaf's prompt: {"city": "
_LABEL = re.compile(r'"([^"\\]{1,60})": "\Z')
# Where a small model that was to say one value goes on with a sentence: "Oslo, where it rains."
_SENTENCE = re.compile(r"[,.]")

T = TypeVar("T")
Steps = Generator[AnswerItem, None, T]
"""Items for the client, and a result when they are out."""


@dataclass(frozen=True)
class GuidedValues:
    """Writes values for one answer. `most_leaves`: a schema with more of them is not filled."""

    horde: HordeContext
    plan: Plan
    ticket: Ticket
    cost: AnswerCost
    request: GenerationRequest
    most_leaves: int

    def fill(self, schema: Mapping[str, Any], begun: str, known: Any = NOTHING) -> Steps[Any]:
        """A value of the schema, with what fits of `known`. Raises Unfillable.

        `begun` is how the answer begins before it.
        """
        return (yield from self._fill(schema, begun, "", known))

    def fill_arguments(
        self, schema: Mapping[str, Any], begun: str, known: Any = NOTHING
    ) -> Steps[Any]:
        """As fill, but with strings in the user's words, where they are found there."""
        words = [msg.text for msg in self.request.messages if msg.role in ("user", "tool")]
        return (yield from self._fill(schema, begun, "\n".join(words), known))

    def _fill(self, schema: Mapping[str, Any], begun: str, source: str, known: Any) -> Steps[Any]:
        # The schema lists no property that could be requested.
        if fits({}, schema) and not schema.get("properties"):
            return {}
        # It gets the text of each leaf that it yields, and returns the whole value.
        filling = guided_fill(schema, known=known, begun=begun, most_leaves=self.most_leaves)
        try:
            leaf = next(filling)
            while True:
                text = yield from self._write(leaf, self.request.messages, begun)
                if source and leaf.stops == TEXT_STOPS and not leaf.choices:
                    text = yield from self._in_words_of(source, leaf, text)
                leaf = filling.send(text)
        except StopIteration as end:
            return end.value

    def _in_words_of(self, source: str, leaf: LeafPrompt, text: str) -> Steps[str]:
        """The inside of a JSON string, as it stands in the source.

        When it is not found there, the model writes it once more, in plain text: a small model
        copies a word better after a space than after a quotation mark.
        """
        quote = quoted_from(cut(text.lstrip(' "'), leaf.stops)[0], source)
        label = _LABEL.search(leaf.prefill)
        if quote or label is None:
            return _escaped(quote) if quote else text
        in_plain_text = LeafPrompt(f"{label[1]}:", ("\n",), leaf.max_length)
        question = (Message("system", _FILL_IN), Message("user", source))
        spoken = yield from self._write(in_plain_text, question)
        for candidate in (spoken, *_SENTENCE.split(spoken)[:1]):
            quote = quoted_from(candidate.strip(' ".'), source)
            if quote:
                return _escaped(quote)
        return text

    def _write(
        self, leaf: LeafPrompt, messages: tuple[Message, ...], begun: str = ""
    ) -> Steps[str]:
        """What the model writes after the prefill of a leaf, which starts with what was `begun`."""
        self.cost.guided += 1
        again = {"temperature": _TEMPERATURE_AGAIN} if leaf.is_again else {}
        sampling = {**self.request.sampling, **_SAMPLING, **again}
        request = replace(self.request, stop=leaf.stops, n=1, messages=messages, sampling=sampling)
        segment = TextSegment(
            self.horde,
            replace(self.plan, request=request),
            n=1,
            # Values may be words of the user, with tags in them.
            so_far=begun + neutralise(leaf.prefill.removeprefix(begun), self.plan.format),
            max_length=max(min(leaf.max_length, self.plan.longest_job), LEAST_LENGTH),
        )
        text = ""
        with closing(Lifecycle(self.horde, segment, self.ticket, self.cost).items()) as items:
            for item in items:
                if isinstance(item, Finished):
                    text = item.generations[0].text
                    text = text[: text_end(text, self.plan.format, is_open=False).position]
                    # Some workers write more than max_length.
                    if exceeds(text, segment.max_length):
                        text = truncate(text, segment.max_length)
                elif not isinstance(item, Grown):
                    yield item
        return restore(text)


def _escaped(text: str) -> str:
    """The text as it stands within a JSON string, where a backslash of a path is doubled."""
    return dumps(text)[1:-1]
