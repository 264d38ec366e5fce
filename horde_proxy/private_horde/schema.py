"""Reads request bodies, by JSON schemas that also hold the defaults of their fields.

Pure: a body comes in; a dict with every field of the schema comes out, or a schema error. The
messages are those of the library jsonschema with draft 4, because the real horde's flask-restx uses
it as well. In that draft, 80.0 is not an integer (capture err_400_validation_type).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Any

from jsonschema import Draft4Validator, ValidationError

from horde_proxy.aihorde.agents import UNKNOWN_AGENT
from horde_proxy.aihorde.limits import TEXT_PARAMETERS, Parameter
from horde_proxy.private_horde.errors import MOST_ERRORS, invalid, refusal, unreadable
from horde_proxy.private_horde.roles import BY_MODERATORS, MODERATOR

Body = dict[str, Any]
Schema = dict[str, Any]

# Levels of JSON. No client needs more, and validating deeper JSON could exhaust the stack.
_DEEPEST = 100
_MOST_MODELS = 1000
"""Models of a request: each makes a row of the queue. The real horde has no such bound."""
_FIELD_MISSING = "Missing required parameter in the JSON body"

_TEXT: Schema = {"type": "string"}
_TEXTS: Schema = {"type": "array", "items": _TEXT, "default": []}
_FLAG: Schema = {"type": "boolean", "default": False}


@dataclass(frozen=True)
class BodySchema:
    """The fields of a body by name; `required` holds the descriptions of the required fields.

    The real horde says of some that they are missing in the words of JSON schemas: those that are
    `demanded` (capture image_err_no_prompt).
    """

    fields: Mapping[str, Schema]
    required: Mapping[str, str] = field(default_factory=dict)
    demanded: tuple[str, ...] = ()

    def errors(self, body: Any) -> dict[str, str]:
        """Messages by dotted field name, "" for the body itself; {} for a valid body.

        Validation stops after a few: a list of a million wrong elements has a million errors.
        """
        errors = islice(self._validator.iter_errors(body), MOST_ERRORS)
        return {_path_of(error): error.message for error in errors}

    @cached_property
    def _validator(self) -> Draft4Validator:
        schema: Schema = {"type": "object", "properties": self.fields}
        if self.demanded:
            schema["required"] = list(self.demanded)
        return Draft4Validator(schema)


def _path_of(error: ValidationError) -> str:
    path = list(map(str, error.absolute_path))
    if error.validator == "required":
        # "'prompt' is a required property" has the path of the object.
        path.append(error.message.split("'")[1])
    return ".".join(path)


def _parameter(parameter: Parameter) -> Schema:
    schema: Schema = {
        "type": parameter.type,
        "minimum": parameter.least,
        "maximum": parameter.most,
        "items": {"type": parameter.items} if parameter.items else None,
        "default": parameter.default,
    }
    return {keyword: value for keyword, value in schema.items() if value is not None}


PARAMS = {name: _parameter(parameter) for name, parameter in TEXT_PARAMETERS.items()}

SUBMIT = BodySchema(
    {
        "prompt": _TEXT,
        # Ours, instead of a prompt: see `chats`.
        "chat": {"type": "object"},
        "params": {"type": "object", "properties": PARAMS, "default": {}},
        "models": {**_TEXTS, "maxItems": _MOST_MODELS},
        "workers": _TEXTS,
        "worker_blacklist": _FLAG,
        "trusted_workers": _FLAG,
        "validated_backends": _FLAG,
        "slow_workers": {"type": "boolean", "default": True},
        "dry_run": _FLAG,
        "allow_downgrade": _FLAG,
        "disable_batching": _FLAG,
        "softprompt": _TEXT,
        "proxied_account": _TEXT,
        "webhook": _TEXT,
        "style": {"type": "string", "minLength": 3, "maxLength": 1024},
        "extra_source_images": {"type": "array"},
    },
    required={"prompt": "The prompt to generate from."},
)
"""POST generate/text/async."""

POP = BodySchema(
    {
        "name": {"type": "string", "minLength": 1, "maxLength": 100},
        "models": {
            "type": "array",
            "items": {"type": "string", "minLength": 3, "maxLength": 255},
            "default": [],
        },
        "bridge_agent": {"type": "string", "maxLength": 1000, "default": UNKNOWN_AGENT},
        "threads": {"type": "integer", "minimum": 1, "maximum": 50, "default": 1},
        "nsfw": _FLAG,
        "max_length": {"type": "integer", "minimum": 1, "default": 512},
        "max_context_length": {"type": "integer", "minimum": 1, "default": 2048},
        "priority_usernames": _TEXTS,
        "blacklist": _TEXTS,
        "amount": {"type": "integer", "minimum": 1, "maximum": 20, "default": 1},
        # Both ours: no worker of AI-Horde sends it (docs/private-horde.md).
        "wait": {"type": "number", "minimum": 0, "default": 0},
        "extensions": _TEXTS,
    },
    required={"name": "The worker's name, unique in the whole horde."},
)
"""POST generate/text/pop."""

GENERATION = BodySchema(
    {
        "id": _TEXT,
        "generation": _TEXT,
        "seed": {"type": "integer", "default": 0},
        "state": {"type": "string", "enum": ["ok", "censored", "csam", "faulted"], "default": "ok"},
        "gen_metadata": {
            "type": "array",
            # The real horde refuses more with "Too many metadata fields".
            "maxItems": 50,
            "items": {
                "type": "object",
                "properties": {"type": _TEXT, "value": _TEXT, "ref": _TEXT},
            },
            "default": [],
        },
    },
    required={"id": "The id of the job.", "generation": "The text that was generated."},
)
"""POST generate/text/submit."""

PROGRESS = BodySchema(
    {
        "id": _TEXT,
        "offset": {"type": "integer", "minimum": 0, "default": 0},
        "text": {"type": "string", "default": ""},
    },
    required={"id": "The id of the job."},
)
"""POST generate/text/progress, which AI-Horde does not have."""

WORKER_CHANGE = BodySchema(
    {
        "maintenance": {"type": "boolean"},
        "maintenance_msg": {"type": "string", "maxLength": 1000},
        "paused": {"type": "boolean"},
        "info": {"type": "string", "maxLength": 1000},
        "name": {"type": "string", "minLength": 1, "maxLength": 100},
        "team": {"type": "string", "maxLength": 36},
    }
)
"""PUT workers/{id}."""

_MOST_KUDOS = 1_000_000_000
"""Kudos of one call. A balance of many such calls still has exact cents in a double."""
_LIMIT: Schema = {"type": "integer", "minimum": -1, "maximum": _MOST_KUDOS}
_BOOLEAN: Schema = {"type": "boolean"}
_LINE: Schema = {"type": "string", "maxLength": 500}

USER_CHANGE = BodySchema(
    {
        "username": _TEXT,
        "contact": _LINE,
        "admin_comment": _LINE,
        "public_workers": _BOOLEAN,
        "concurrency": {"type": "integer", "minimum": 0, "maximum": 10_000},
        "worker_invited": {"type": "integer", "minimum": 0, "maximum": 1_000_000},
        "usage_multiplier": {"type": "number", "minimum": 0.1, "maximum": 10},
        "kudos": {"type": "number", "minimum": -_MOST_KUDOS, "maximum": _MOST_KUDOS},
        "monthly_kudos": {"type": "integer", "minimum": -_MOST_KUDOS, "maximum": _MOST_KUDOS},
        **dict.fromkeys((MODERATOR, *BY_MODERATORS), _BOOLEAN),
        **dict.fromkeys(("blocked", "reset_suspicion", "undelete"), _BOOLEAN),
    }
)
"""PUT users/{id}."""

TRANSFER = BodySchema(
    {
        "username": _TEXT,
        "amount": {"type": "number", "minimum": -_MOST_KUDOS, "maximum": _MOST_KUDOS},
    },
    required={"username": "The user who gets the kudos.", "amount": "The kudos."},
)
"""POST kudos/transfer and kudos/award."""

SHARED_KEY = BodySchema(
    {
        "name": {"type": "string", "maxLength": 255},
        "kudos": _LIMIT,
        # A hundred years: beyond the year 9999, there are no dates.
        "expiry": {"type": "integer", "minimum": -1, "maximum": 36_500},
        "max_text_tokens": _LIMIT,
        "max_image_pixels": _LIMIT,
        "max_image_steps": _LIMIT,
        "max_requests": _LIMIT,
    }
)
"""PUT sharedkeys and PATCH sharedkeys/{id}."""

REGISTRATION = BodySchema(
    {"username": _TEXT, "invitation": _LINE, "contact": _LINE},
    required={"username": "The name of the new account."},
)
"""POST register."""

INVITATION = BodySchema(
    {
        "uses": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 1},
        # null, like 0, is an invitation without an end.
        "days": {"type": ["number", "null"], "minimum": 0, "maximum": 3650, "default": 7},
        "kudos": {"type": "number", "minimum": 0, "maximum": _MOST_KUDOS, "default": 0},
        "note": {"type": "string", "maxLength": 500, "default": ""},
    }
)
"""POST invitations."""

NEW_KEY = BodySchema({"name": {"type": "string", "maxLength": 60, "default": ""}, "replace": _TEXT})
"""POST users/{id}/keys."""


def read(schema: BodySchema, body: Any) -> Body:
    """A body with all fields of the schema: defaults are filled in, unknown fields left out.

    Raises HordeError. As in the real horde, the checks come in this order: unusable strings,
    invalid fields, missing fields.
    """
    _check_strings(body)
    if errors := schema.errors(body):
        raise invalid(errors)
    for name, description in schema.required.items():
        if name not in body:
            raise invalid({name: f"{description} {_FIELD_MISSING}".lstrip()})
    return _filled(schema.fields, body)


def worker_params(params: Mapping[str, Any]) -> Body:
    """The parameters for a worker: those that the client sent and those with a default."""
    return {name: params[name] for name in PARAMS if params[name] is not None}


def default_params() -> Body:
    """The payload of a pop without a job: defaults but no prompt (capture text_pop_no_job)."""
    defaults = worker_params(_filled(PARAMS, {}))
    return {name: value for name, value in defaults.items() if name != "n"}


def _filled(fields: Mapping[str, Schema], body: Mapping[str, Any]) -> Body:
    return {
        name: _value(schema, body.get(name, schema.get("default")))
        for name, schema in fields.items()
    }


def _value(schema: Schema, value: Any) -> Any:
    """A value with its fields filled in. In elements of lists, no defaults are filled in."""
    if value is not None and "properties" in schema:
        return _filled(schema["properties"], value)
    if value is not None and "properties" in schema.get("items", {}):
        known = schema["items"]["properties"]
        return [{name: item[name] for name in known if name in item} for item in value]
    return value


def _check_strings(body: Any) -> None:
    """Refuse NUL bytes anywhere. Without recursion, so that no body exhausts the stack."""
    level = [body]
    for _ in range(_DEEPEST):
        if any("\0" in value for value in level if isinstance(value, str)):
            raise refusal("NulByteInPayload")
        level = [
            inner for value in level if isinstance(value, dict | list) for inner in _inside(value)
        ]
        if not level:
            return
    raise unreadable()


def _inside(value: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return (*value, *value.values()) if isinstance(value, dict) else value
