"""How this proxy uses one horde: what the settings say, which a request may override. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from horde_proxy.aihorde.names import matches_glob
from horde_proxy.prompts.format_rules import choose_format
from horde_proxy.prompts.formats import Format
from horde_proxy.prompts.tool_calls.instructions import style_for
from horde_proxy.upstreams.horde.workers import Filters


@dataclass(frozen=True)
class Hedging:
    """When a late job is submitted a second time, and what the answer may cost with that.

    `stall`: the seconds after which an unchanged position in the queue is late.
    """

    stall: float
    max_kudos: float | None = None


@dataclass(frozen=True)
class HordeOptions:
    """The options of one horde; see docs/settings.md for each.

    `first_segment` is in tokens, 0 for one as long as the others. `retries` are those of one
    segment, `max_kudos` those of a whole answer, `tool_retries` corrections of one choice.
    `most_leaves`: values that guided filling may write. `formats`, `tool_styles` and
    `context_diets` are by glob.
    `chat_jobs`: chats go as chats to workers that take them. `describe_images`: pictures in chats
    are put into words, which may take `describe_seconds`.
    `accepts_callers_keys`: a caller's own key is one of this horde's. `hedging`: None for off.
    """

    api_key: str = field(repr=False)
    default_max_tokens: int = 4096
    formats: Mapping[str, str] = field(default_factory=dict)
    placeholders: bool = True
    filters: Filters = field(default_factory=Filters)
    segments: bool = True
    first_segment: int = 128
    retries: int = 2
    max_kudos: float | None = None
    tool_styles: Mapping[str, str] = field(default_factory=dict)
    context_diets: Mapping[str, bool] = field(default_factory=dict)
    tool_retries: int = 1
    most_leaves: int = 12
    accepts_callers_keys: bool = True
    chat_jobs: bool = True
    describe_images: bool = True
    describe_seconds: float = 60.0
    hedging: Hedging | None = None

    def key_for(self, callers_key: str | None) -> str:
        """The key that pays for a caller who may have one of its own."""
        own = callers_key if self.accepts_callers_keys else None
        return own or self.api_key

    def format(self, model: str) -> Format:
        """The chat format that is used for a model."""
        return choose_format(model, self.formats, placeholders=self.placeholders)

    def tool_style(self, model: str) -> str:
        """How tool calls are written for a model: hermes, llama3, mistral or none."""
        for glob, style in self.tool_styles.items():
            if matches_glob(model, glob):
                return style
        return style_for(self.format(model).name)

    def diets(self, model: str) -> bool:
        """Whether prompts that are too long for a model are shortened before turns are dropped."""
        matches = (on for glob, on in self.context_diets.items() if matches_glob(model, glob))
        return next(matches, True)
