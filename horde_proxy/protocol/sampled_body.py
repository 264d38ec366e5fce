"""What the bodies of chats and text completions have in common: limits, samplers, stops. Pure.

Unknown fields are ignored, as all compatible servers do: opencode sends whatever options its users
write.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from horde_proxy.errors import InvalidRequest
from horde_proxy.protocol.generation_request import GenerationRequest
from horde_proxy.protocol.leniency import Leniency


def _integral(value: Any) -> Any:
    """80.0 becomes 80, since JSON has only one kind of numbers. "80" and true stay invalid."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


MOST_ELEMENTS = 1_000
"""The most tools, stops or parts of a message. OpenAI allows 4 stops; Continue sends more."""
_MOST_STOP_CHARACTERS = 10_000
"""Characters of all stops together: each piece of an answer is compared with every beginning of
every stop. A horde takes 2,000."""

Int = Annotated[int, BeforeValidator(_integral)]
Unit = Annotated[float, Field(ge=0, le=1)]


def _without_null_elements(value: Any) -> Any:
    """A list without its nulls: clients fill a form of stops, of which few are set."""
    # A longer list is refused as it is: a copy of it would cost as much again.
    if isinstance(value, list) and len(value) <= MOST_ELEMENTS:
        return [element for element in value if element is not None]
    return value


# fail_fast: otherwise pydantic collects every error, and a million errors take gigabytes.
Strings = Annotated[list[str], Field(max_length=MOST_ELEMENTS, fail_fast=True)]
Stops = Annotated[Strings, BeforeValidator(_without_null_elements)]
Objects = Annotated[list[dict[str, Any]], Field(max_length=MOST_ELEMENTS, fail_fast=True)]
Integers = Annotated[list[Int], Field(max_length=MOST_ELEMENTS, fail_fast=True)]


class LenientModel(BaseModel):
    """Unknown fields are ignored. "80" is not a number, and NaN is refused, as it is not JSON."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


class _StreamOptions(LenientModel):
    include_usage: bool | None = None


class HordeParameters(BaseModel):
    """The `horde` object of a request: which workers may answer, how, and for how much."""

    model_config = ConfigDict(extra="forbid", strict=True)

    workers: Annotated[list[str], Field(max_length=5)] | None = None
    worker_blacklist: bool | None = None
    trusted_workers: bool | None = None
    slow_workers: bool | None = None
    validated_backends: bool | None = None
    least_speed: Annotated[float, Field(ge=0)] | None = None
    max_kudos: Annotated[float, Field(gt=0)] | None = None
    segments: bool | None = None
    context_diet: bool | None = None
    first_segment: Annotated[Int, Field(ge=0)] | None = None
    progress: Literal["reasoning"] | None = None
    images: bool | None = None

    @model_validator(mode="before")
    @classmethod
    def _beginning(cls, given: Any) -> Any:
        """The object, or the beginning of one that has too many fields to be right.

        Most fields of that one are unknown, and pydantic collects an error for each.
        """
        if isinstance(given, dict) and len(given) > MOST_ELEMENTS:
            return dict(islice(given.items(), MOST_ELEMENTS))
        return given


class SampledBody(LenientModel):
    """The fields that chats and text completions have in common.

    The samplers after presence_penalty are not OpenAI's: KoboldAI's, llama.cpp's and SillyTavern's
    names of what the horde's workers understand.
    """

    model: Annotated[str, Field(min_length=1)]
    max_tokens: Int | None = None
    n: Int | None = None
    stop: str | Stops | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    horde: HordeParameters | None = None

    temperature: Annotated[float, Field(ge=0, le=5)] | None = None
    top_p: Unit | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    top_k: Int | None = None
    min_p: float | None = None
    top_a: float | None = None
    tfs: float | None = None
    typical: float | None = None
    typical_p: float | None = None
    rep_pen: float | None = None
    repetition_penalty: float | None = None
    repeat_penalty: float | None = None
    rep_pen_range: Int | None = None
    rep_pen_slope: float | None = None
    smoothing_factor: float | None = None
    dynatemp_range: float | None = None
    dynatemp_exponent: float | None = None
    sampler_order: Integers | None = None

    seed: Any = None
    logit_bias: Any = None
    logprobs: Any = None


_SAMPLING = (
    "temperature",
    "top_p",
    "frequency_penalty",
    "presence_penalty",
    "top_k",
    "min_p",
    "top_a",
    "tfs",
    "typical",
    "rep_pen",
    "rep_pen_range",
    "rep_pen_slope",
    "smoothing_factor",
    "dynatemp_range",
    "dynatemp_exponent",
    "sampler_order",
)
# The names of the same samplers in vLLM and Hugging Face, and in llama.cpp.
_OTHER_NAMES = {
    "typical": ("typical_p",),
    "rep_pen": ("repetition_penalty", "repeat_penalty"),
}
SAMPLING_NAMES = tuple(
    name for known in _SAMPLING for name in (known, *_OTHER_NAMES.get(known, ()))
)
"""All fields of a body that change how tokens are drawn."""


def common_request(body: SampledBody, leniency: Leniency, *, max_n: int) -> GenerationRequest:
    """The request of a body, without its messages and its warnings. Raises InvalidRequest."""
    n = positive(body, "n", leniency) or 1
    if n > max_n:
        raise InvalidRequest(
            f"Invalid value for 'n': must be at most {max_n}.",
            param="n",
            code="integer_above_max_value",
        )
    return GenerationRequest(
        model=body.model,
        messages=(),
        max_tokens=positive(body, "max_tokens", leniency),
        n=n,
        stop=_stop(body.stop),
        stream=bool(body.stream),
        include_usage=bool(body.stream_options and body.stream_options.include_usage),
        sampling=_sampling(body),
        horde=body.horde.model_dump(exclude_none=True) if body.horde else {},
    )


def positive(body: SampledBody, name: str, leniency: Leniency) -> int | None:
    """A count of at least 1; None for the default.

    Clients of koboldcpp and llama.cpp send -1 for "no limit", and 0 for a field that is not set.
    """
    count: int | None = getattr(body, name)
    if count is None or count >= 1:
        return count
    error = InvalidRequest(
        f"Invalid value for '{name}': must be at least 1.",
        param=name,
        code="integer_below_min_value",
    )
    leniency.tolerate(error, "below 1, so the default is used")
    return None


def warn_of_unsupported(body: SampledBody, names: Sequence[str], leniency: Leniency) -> None:
    """A warning for each of the fields that is set. Raises InvalidRequest in strict mode."""
    for name in names:
        if _is_set(name, getattr(body, name)):
            error = InvalidRequest(
                f"Unsupported parameter: '{name}'.", param=name, code="unsupported_parameter"
            )
            leniency.tolerate(error, "not supported")


def _is_set(name: str, value: Any) -> bool:
    # 0 is a seed like any other; -1 is koboldcpp's and llama.cpp's word for a random one.
    if name == "seed" and isinstance(value, int | float):
        return value != -1
    return bool(value)


def _sampling(body: SampledBody) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name in _SAMPLING:
        values_given = [getattr(body, alias) for alias in (name, *_OTHER_NAMES.get(name, ()))]
        value = next((given for given in values_given if given is not None), None)
        if value is not None:
            values[name] = value
    return values


def _stop(stop: str | Sequence[str] | None) -> tuple[str, ...]:
    strings = [stop] if isinstance(stop, str) else stop or []
    if sum(map(len, strings)) > _MOST_STOP_CHARACTERS:
        raise InvalidRequest(
            f"The stop strings have more than {_MOST_STOP_CHARACTERS:,} characters together.",
            param="stop",
            code="string_above_max_length",
        )
    return tuple(dict.fromkeys(string for string in strings if string))
