"""The alchemy kind of job: a picture as the body of a submit, and what alchemists see in it, read.

An alchemist does one form each: `describe` is a text, `caption` a sentence, `interrogation` a list
of tags. One request has several forms, which different alchemists may do; together they are one
description. The status does not say who did them. Pure. See jobs.py for the contract.

Source: POST interrogate/async of AI-Horde, captures interrogate_*.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from horde_proxy.aihorde import image_kudos
from horde_proxy.aihorde.image_limits import UpfrontLimit
from horde_proxy.numbers import finite
from horde_proxy.upstreams.base import Caller
from horde_proxy.upstreams.horde.jobs import (
    Estimate,
    Generation,
    JobKind,
    OneRequestJob,
    Progress,
    Status,
)

DESCRIBE, CAPTION, TAGS = "describe", "caption", "interrogation"
WORDS = (DESCRIBE, CAPTION, TAGS)
"""The forms of alchemy that say what a picture shows."""
NOBODY = "alchemist"
"""Stands for the id of the worker, which the horde does not tell."""
_OVER = frozenset({"done", "partial", "faulted", "cancelled"})
"""States of a request, and of its forms, that do not change any more. A request is `partial` where
some of its forms have no result (capture interrogate_status_cancelled)."""
_FORM_SECONDS = 5.0
"""Seconds that one form is expected to take: alchemists report 1 to 10."""
_LONGEST_TEXT, _LONGEST_TAG, _MOST_TAGS = 1200, 60, 12
"""Characters of a description and of a tag. A stranger wrote them, and they share the context."""
_TAG_LISTS = ("tags", "mediums", "movements", "flavors")
"""Lists of an interrogation that say what there is to see; sites and artists are guesses."""


def _forms(status: Status) -> list[Mapping[str, Any]]:
    forms = status.get("forms")
    return [form for form in forms if isinstance(form, dict)] if isinstance(forms, list) else []


def is_final(status: Status, n: int) -> bool:
    """Whether nothing more will come of a request."""
    forms = _forms(status)
    # A request without forms is faulted at once (capture interrogate_status_no_forms).
    states = [form.get("state") for form in forms] or [status.get("state")]
    return all(isinstance(state, str) and state in _OVER for state in states)


def _progress(status: Status) -> Progress:
    states = [form.get("state") for form in _forms(status)]
    is_begun = any(state != "waiting" for state in states)
    return Progress(
        # One request is one job, however many forms it has.
        waiting=0 if is_begun else 1,
        is_processing=is_begun,
        queue_position=0,
        # The horde does not say it of alchemy.
        is_possible=True,
        finished=states.count("done"),
    )


def _results(status: Status) -> Sequence[Mapping[str, Any]]:
    """The words of all forms that are done, by form, as one result; none without words."""
    words: dict[str, Any] = {}
    for form in _forms(status):
        result = form.get("result")
        if form.get("state") == "done" and isinstance(result, dict):
            words |= {name: result[name] for name in WORDS if result.get(name)}
    return [words] if words else []


ALCHEMY = JobKind(
    name="alchemy",
    submit_path="interrogate/async",
    check_path="interrogate/status",
    status_path="interrogate/status",
    is_final=is_final,
    progress=_progress,
    results=_results,
)


@dataclass(frozen=True)
class Description(Generation):
    """What alchemists say of a picture; `words` are in one line, without brackets."""

    words: str


@dataclass(eq=False)
class DescriptionJob(OneRequestJob):
    """The description of one picture, which is base64.

    `forms` are tried in order: a list of forms that are requested together, then the next list
    where workers failed on the one before. `size` is in pixels.
    """

    picture: str = field(repr=False)
    size: tuple[int, int]
    forms: tuple[tuple[str, ...], ...]
    api_key: str = field(repr=False)
    caller: Caller
    max_kudos: float | None = None
    slow_workers: bool = True
    trusted_workers: bool = False
    n: int = 1
    models: Sequence[str] = ("alchemy",)

    @property
    def kind(self) -> JobKind:
        return ALCHEMY

    @property
    def journal_key(self) -> str:
        """None: a description costs little, and is made again."""
        return ""

    @property
    def description(self) -> str:
        return f"alchemy ({', '.join(self.forms[0])})"

    def payload(self, n: int, worker: str | None) -> dict[str, Any]:
        return {
            "source_image": self.picture,
            "forms": [{"name": form} for form in self.forms[0]],
            "slow_workers": self.slow_workers,
            "trusted_workers": self.trusted_workers,
        }

    def price(self, n: int) -> float:
        forms = sum(image_kudos.alchemy(form, *self.size) for form in self.forms[0])
        return forms + image_kudos.TAX * (2 if self.slow_workers else 1)

    def upfront(self, n: int) -> float:
        """Nothing: alchemy is open to accounts without kudos."""
        return 0.0

    def estimate(self) -> Estimate:
        return Estimate(0.0, _FORM_SECONDS)

    def read(self, result: Mapping[str, Any]) -> Description:
        words = description_words(result)
        return Description("alchemy", NOBODY, "", is_censored=False, words=words)

    def is_good(self, generation: Description) -> bool:
        return bool(generation.words)

    def shrink_to_free(self, limit: UpfrontLimit | None = None) -> bool:
        return False

    def note_fault(self) -> None:
        self.forms = self.forms[1:] or self.forms


def description_words(result: Mapping[str, Any]) -> str:
    """ "a blue square; tags: square, blue" from the results of the forms by name; "" for none."""
    texts = (_line(result.get(form), _LONGEST_TEXT) for form in (DESCRIBE, CAPTION))
    parts = [text for text in texts if text]
    tags = ", ".join(_tags(result.get(TAGS)))
    return "; ".join([*parts[:1], *([f"tags: {tags}"] if tags else [])])


def _tags(interrogation: Any) -> list[str]:
    """The likeliest tags: {"tags": [{"text": "square", "confidence": 0.9}]}, or bare texts."""
    scored: dict[str, float] = {}
    for entry in _entries(interrogation):
        text = entry.get("text") if isinstance(entry, dict) else entry
        confidence = finite(entry.get("confidence")) if isinstance(entry, dict) else None
        tag = _line(text, _LONGEST_TAG)
        if tag:
            scored[tag] = max(confidence or 0.0, scored.get(tag, 0.0))
    return sorted(scored, key=lambda tag: -scored[tag])[:_MOST_TAGS]


def _entries(interrogation: Any) -> Iterator[Any]:
    if not isinstance(interrogation, dict):
        return
    for name in _TAG_LISTS:
        entries = interrogation.get(name)
        # The first list is of what the picture shows; the others are looked at without it.
        if isinstance(entries, list) and entries:
            yield from entries[:1000]
            return


def _line(value: Any, longest: int) -> str:
    """A text as one line of printable characters, without square brackets: they end a note."""
    if not isinstance(value, str):
        return ""
    text = value[: longest * 4].replace("[", "(").replace("]", ")")
    text = "".join(letter if letter.isprintable() else " " for letter in text)
    text = re.sub(r" {2,}", " ", text).strip()
    return text if len(text) <= longest else f"{text[:longest].rstrip()}..."
