"""Finds the input of a custom tool that a model wrote as a code block instead of calling the tool.

    ```apply_patch          the name of a custom tool, or else the first and the last line
    *** Begin Patch         are texts of its grammar
    ...
    *** End Patch
    ```                     nothing may follow: what is explained further is an example

Models that were trained to write patches do so without any call, and Codex would show the patch
instead of applying it. Pure. Text passes at once, but for blocks that may be such an input.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from horde_proxy.protocol.responses.calls import CallForm

_FENCE = "```"
_State = Literal["text", "fence", "input", "closed", "other block"]


class FencedCall(NamedTuple):
    """A custom tool and its input."""

    form: CallForm
    input: str


@dataclass
class FencedInput:
    """Reads the text of one answer. States, line by line:

    text -> fence (its first line decides) -> input -> closed -> a call at the end of the answer
                       '-> other block, which passes     '-> text, if more of it follows
    """

    forms: Mapping[str, CallForm]
    _state: _State = "text"
    _form: CallForm | None = None
    _held: str = ""
    _line: str = ""
    _passes_line: bool = False

    def __post_init__(self) -> None:
        self.forms = {name: form for name, form in self.forms.items() if form.kind == "custom"}

    def add(self, text: str) -> str:
        """What may pass of the text so far, after a further piece of it."""
        if not self.forms:
            return text
        passed = ""
        for line in text.splitlines(keepends=True):
            # str.splitlines ends lines at further characters, which are no ends here.
            self._line += line
            if line.endswith("\n"):
                passed += self._whole_line()
            elif self._state in ("text", "other block") and not self._may_be_fence():
                passed, self._line, self._passes_line = passed + self._line, "", True
        return passed

    def call(self) -> FencedCall | None:
        """The call that ends the text, if that is over. `rest` has then nothing left of it."""
        if self._state == "input" and self._line:
            self._held_line()
        if self._state != "closed" or self._form is None or self._line.strip():
            return None
        first, *lines = self._held.rstrip().split("\n")
        written = "\n".join(lines[:-1])
        if self._named(first) is None and not self._form.may_be(written):
            return None
        call = FencedCall(self._form, self._form.unwrapped(written + "\n"))
        self.rest()
        return call

    def rest(self) -> str:
        """What was held back of the text."""
        held = self._release() + self._line
        self._state, self._line = "text", ""
        if held:
            self._passes_line = not held.endswith("\n")
        return held

    def _may_be_fence(self) -> bool:
        return not self._passes_line and (_FENCE.startswith(self._line) or self._is_fence())

    def _is_fence(self) -> bool:
        return self._line.startswith(_FENCE)

    def _whole_line(self) -> str:
        """What passes at the end of a line."""
        line, passes = self._line, self._passes_line
        if self._state in ("input", "closed", "fence"):
            return self._held_line()
        self._line, self._passes_line = "", False
        if passes or not line.startswith(_FENCE):
            return line
        if self._state == "other block":
            self._state = "text" if line.strip() == _FENCE else "other block"
            return line
        self._held, self._form = line, self._named(line)
        self._state = "fence" if self._form is None else "input"
        return ""

    def _held_line(self) -> str:
        """The same while a block is held back."""
        line, self._line = self._line, ""
        is_end = line.strip() == _FENCE
        self._held += line
        if self._state == "fence":
            self._form = next((form for form in self.forms.values() if form.begins(line)), None)
            self._state = "input" if self._form and not is_end else "other block"
            if is_end:
                self._state = "text"
        elif self._state == "input":
            self._state = "closed" if is_end else "input"
        elif line.strip():
            self._state, self._line = "text", line
            self._held = self._held.removesuffix(line)
            return self._release() + self._whole_line()
        return self._release() if self._state in ("text", "other block") else ""

    def _release(self) -> str:
        held, self._held, self._form = self._held, "", None
        return held

    def _named(self, line: str) -> CallForm | None:
        """The tool that a fence names: "```apply_patch"."""
        return self.forms.get(line.removeprefix(_FENCE).strip())
