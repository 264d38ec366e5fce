"""Reading of request bodies: tables of fields with types, ranges and defaults.

Pure: a body comes in, a dict with every field of the table comes out, or a schema error. Its
sentences are those of the jsonschema library, which the real horde's clients know.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from horde_proxy.private_horde.errors import invalid, refusal, unreadable

Body = dict[str, Any]

_TYPES: Mapping[str, tuple[type, ...]] = {
    "integer": (int,),
    "number": (int, float),
    "string": (str,),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
}
_DEEPEST = 100
_APIKEY_MISSING = (
    "The API Key corresponding to a registered user. Missing required parameter in the HTTP headers"
)


@dataclass(frozen=True)
class Field:
    """One field: JSON type, bounds (inclusive; of the length for text and lists), default."""

    kind: str
    least: float | None = None
    most: float | None = None
    default: Any = None
    items: Field | None = None
    fields: Mapping[str, Field] | None = None
    choices: tuple[str, ...] | None = None
    required: str | None = None


_TEXT = Field("string")
_FLAG = Field("boolean", default=False)

PARAMS: Mapping[str, Field] = {
    "n": Field("integer", 1, 20, 1),
    "max_context_length": Field("integer", 80, 1_048_576, 2048),
    "max_length": Field("integer", 16, 4096, 80),
    "rep_pen": Field("number", 1.0, 3.0),
    "rep_pen_range": Field("integer", 0, 4096),
    "rep_pen_slope": Field("number", 0.0, 10.0),
    "temperature": Field("number", 0.0, 5.0),
    "tfs": Field("number", 0.0, 1.0),
    "top_a": Field("number", 0.0, 1.0),
    "top_k": Field("integer", 0, 200),
    "top_p": Field("number", 0.001, 1.0),
    "typical": Field("number", 0.0, 1.0),
    "sampler_order": Field("array", items=Field("integer")),
    "frmtadsnsp": Field("boolean"),
    "frmtrmblln": Field("boolean"),
    "frmtrmspch": Field("boolean"),
    "frmttriminc": Field("boolean"),
    "singleline": Field("boolean"),
    "use_default_badwordsids": Field("boolean"),
    "stop_sequence": Field("array", items=_TEXT),
    "min_p": Field("number", 0.0, 1.0, 0.0),
    "smoothing_factor": Field("number", 0.0, 10.0, 0.0),
    "dynatemp_range": Field("number", 0.0, 5.0, 0.0),
    "dynatemp_exponent": Field("number", 0.0, 5.0, 1.0),
}
SUBMIT: Mapping[str, Field] = {
    "prompt": Field("string", required="The prompt to generate from."),
    "params": Field("object", default={}, fields=PARAMS),
    "models": Field("array", default=[], items=_TEXT),
    "workers": Field("array", default=[], items=_TEXT),
    "worker_blacklist": _FLAG,
    "trusted_workers": _FLAG,
    "validated_backends": _FLAG,
    "slow_workers": Field("boolean", default=True),
    "dry_run": _FLAG,
    "allow_downgrade": _FLAG,
    "disable_batching": _FLAG,
    "softprompt": _TEXT,
    "proxied_account": _TEXT,
    "webhook": _TEXT,
    "style": Field("string", 3, 1024),
    "extra_source_images": Field("array"),
}
POP: Mapping[str, Field] = {
    "name": Field("string", 1, 100, required="The worker's name, of its own in the whole horde."),
    "models": Field("array", default=[], items=Field("string", 3, 255)),
    "bridge_agent": Field("string", None, 1000, "unknown:0:unknown"),
    "threads": Field("integer", 1, 50, 1),
    "nsfw": _FLAG,
    "max_length": Field("integer", 1, None, 512),
    "max_context_length": Field("integer", 1, None, 2048),
    "priority_usernames": Field("array", default=[], items=_TEXT),
    "amount": Field("integer", 1, 20, 1),
}
DELIVER: Mapping[str, Field] = {
    "id": Field("string", required="The id of the job."),
    "generation": Field("string", required="The text that was generated."),
    "seed": Field("integer", default=0),
    "state": Field("string", default="ok", choices=("ok", "censored", "csam", "faulted")),
    "gen_metadata": Field(
        "array",
        None,
        50,
        [],
        items=Field("object", fields={"type": _TEXT, "value": _TEXT, "ref": _TEXT}),
    ),
}
CHANGE: Mapping[str, Field] = {"maintenance": Field("boolean")}


def read(table: Mapping[str, Field], body: Any, apikey: str | None) -> Body:
    """Return the fields of `table` from `body`, absent ones filled; unknown ones are dropped.

    Raises HordeError 400: with `errors` by field, NulByteInPayload, or unreadable when too nested.
    """
    _check_strings(body)
    errors = dict(_faults(Field("object", fields=table), body, ""))
    if errors:
        raise invalid(errors)
    if apikey is None:
        raise invalid({"apikey": _APIKEY_MISSING})
    for name, field in table.items():
        if field.required is not None and name not in body:
            raise invalid({name: f"{field.required} Missing required parameter in the JSON body"})
    return _filled(table, body)


def worker_params(params: Mapping[str, Any]) -> Body:
    """Return the sampler settings as a worker sees them: only what was asked or has a default."""
    return {name: params[name] for name in PARAMS if params[name] is not None}


def default_params() -> Body:
    """Return the payload that a worker gets when there is no job: the defaults, no prompt."""
    return {
        name: field.default
        for name, field in PARAMS.items()
        if field.default is not None and name != "n"
    }


def _filled(table: Mapping[str, Field], body: Mapping[str, Any]) -> Body:
    return {name: _value(field, body.get(name, field.default)) for name, field in table.items()}


def _value(field: Field, value: Any) -> Any:
    if field.fields is not None and value is not None:
        return _filled(field.fields, value)
    if field.items is not None and field.items.fields is not None:
        known = field.items.fields
        return [{name: each[name] for name in known if name in each} for each in value]
    return value


def _faults(field: Field, value: Any, path: str) -> Iterator[tuple[str, str]]:
    """Yield (dotted field name, sentence) for everything in `value` that breaks the table."""
    fits = isinstance(value, _TYPES[field.kind])
    if not fits or (isinstance(value, bool) and field.kind != "boolean"):
        yield path, f"{value!r} is not of type '{field.kind}'"
        return
    if field.kind in ("integer", "number"):
        yield from _range_faults(field, value, path)
    elif field.kind in ("string", "array"):
        yield from _size_faults(field, value, path)
    if field.choices is not None and value not in field.choices:
        yield path, f"{value!r} is not one of {list(field.choices)!r}"
    yield from _inner_faults(field, value, path)


def _range_faults(field: Field, value: float, path: str) -> Iterator[tuple[str, str]]:
    if field.least is not None and value < field.least:
        yield path, f"{value!r} is less than the minimum of {field.least!r}"
    if field.most is not None and value > field.most:
        yield path, f"{value!r} is greater than the maximum of {field.most!r}"


def _size_faults(field: Field, value: Any, path: str) -> Iterator[tuple[str, str]]:
    if field.least is not None and len(value) < field.least:
        yield path, f"{value!r} is too short"
    if field.most is not None and len(value) > field.most:
        yield path, f"{value!r} is too long"


def _inner_faults(field: Field, value: Any, path: str) -> Iterator[tuple[str, str]]:
    prefix = f"{path}." if path else ""
    if field.items is not None:
        for index, each in enumerate(value):
            yield from _faults(field.items, each, f"{prefix}{index}")
    if field.fields is not None:
        for name, each in field.fields.items():
            if name in value:
                yield from _faults(each, value[name], f"{prefix}{name}")


def _check_strings(body: Any) -> None:
    """Refuse NUL bytes anywhere. Level by level: recursion would let a body exhaust the stack."""
    level = [body]
    for _ in range(_DEEPEST):
        if any("\0" in value for value in level if isinstance(value, str)):
            raise refusal("NulByteInPayload")
        level = [inner for value in level for inner in _inside(value)]
    if level:
        raise unreadable()


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return (*value, *value.values())
    return value if isinstance(value, list) else ()
