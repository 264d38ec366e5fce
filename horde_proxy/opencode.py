"""opencode's configuration with the models that are available now.

It must change nothing but its own provider and the defaults that point to it: everything else in
the file, comments included, is the user's. The fields are those of the schema that opencode
publishes (https://opencode.ai/config.json), as opencode 1.18 reads them.
"""

from __future__ import annotations

import errno
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from horde_proxy.aihorde.names import untagged
from horde_proxy.jsonc import JsoncError, parse, set_value
from horde_proxy.numbers import finite
from horde_proxy.protocol.models import as_mapping, facts_of, is_available

PROVIDER = "horde"
NO_KEY = "none"
"""opencode's SDKs insist on a key. This one counts as no key here."""
SCHEMA = "https://opencode.ai/config.json"
COMFORTABLE_CONTEXT = 16_384
"""Tokens. Of opencode 1.18's first request, 2,000 are its instructions and 4,700 its ten tools."""
LEAST_CONTEXT = 12_288
"""Tokens of context in which opencode can work: its first request takes 7,500 by our estimate, an
answer is a quarter of the context (see _entry), and some rounds of calls need room before opencode
compacts the chat."""
LEAST_DIET_CONTEXT = 8_192
"""The same where the proxy shortens the prompt (prompts/diet.py): down to 3,600 tokens."""
LONGEST_ANSWER = 8_192
"""Tokens that opencode keeps free for an answer. Without a limit it asks for 32,000 tokens. An
answer is chained of several jobs, so the length of one job (`max_length`) does not limit it."""
_PATIENCE_MS = 900_000
"""How long opencode waits for headers and between chunks (ms). Its default of 300 s is too short
for the horde's queue: opencode then sends the same request again."""
_MODALITIES = ("text", "audio", "image", "video", "pdf")
"""The modalities that opencode's schema allows; it refuses a file with another one."""
_MOST_NAMES = 5
"""Names of models in a message; a cloud's list has hundreds."""
_LONE_LINE_FEED = re.compile(r"(?<!\r)\n")
"""The "\\n" of a Unix file, but not the one in the "\\r\\n" of a Windows file."""

Model = Mapping[str, Any]


def updated(text: str, models: Sequence[Model], base_url: str, api_key: str | None) -> str:
    """The configuration's text with our provider for these models. Raises JsoncError.

    Without `api_key`, the provider's key stays what it is. `model` and `small_model` are set where
    they are missing, or name a model of ours that is gone: a default that still works is the
    user's choice.
    """
    # What is added has Unix line ends; in a Windows file they are translated at the end.
    is_of_windows = "\r\n" in text and not _LONE_LINE_FEED.search(text)
    current = parse(text).value
    if not isinstance(current, dict):
        raise JsoncError("the configuration is not an object")
    offered = [f"{PROVIDER}/{model['id']}" for model in models]
    # opencode itself knows a model only by the id in the list: "x:latest" for "x", or the reverse.
    tagged = {untagged(name): name for name in offered}
    text = set_value(text, ("$schema",), current.get("$schema", SCHEMA))
    key = api_key or _key_in(current) or NO_KEY
    text = set_value(text, ("provider", PROVIDER), provider(models, base_url, key))
    for name, model in (("model", best(models)), ("small_model", fastest(models))):
        chosen = str(current.get(name) or "")
        is_ours = chosen.startswith(f"{PROVIDER}/") or not chosen
        if is_ours and chosen not in offered:
            default = tagged.get(untagged(chosen), f"{PROVIDER}/{model['id']}")
            text = set_value(text, (name,), default)
    return _LONE_LINE_FEED.sub("\r\n", text) if is_of_windows else text


def _key_in(configuration: Mapping[str, Any]) -> str | None:
    """The key that the provider has by now."""
    current = as_mapping(as_mapping(configuration.get("provider")).get(PROVIDER))
    key = as_mapping(current.get("options")).get("apiKey")
    return key if isinstance(key, str) else None


def provider(models: Sequence[Model], base_url: str, api_key: str) -> dict[str, Any]:
    """The provider object for opencode. Times are in milliseconds."""
    return {
        # Bundled with opencode, so that it needs no network for it.
        "npm": "@ai-sdk/openai-compatible",
        "name": "AI Horde",
        "options": {
            "baseURL": base_url,
            "apiKey": api_key,
            "timeout": False,
            "headerTimeout": _PATIENCE_MS,
            "chunkTimeout": _PATIENCE_MS,
        },
        "models": {model["id"]: _entry(model) for model in models},
    }


def fresh(models: Sequence[Model], base_url: str, api_key: str) -> dict[str, Any]:
    """A whole configuration, for users who have none. Raises ValueError without models."""
    if not models:
        raise ValueError("no model has a context that is large enough for opencode")
    return {
        "$schema": SCHEMA,
        "model": f"{PROVIDER}/{best(models)['id']}",
        "small_model": f"{PROVIDER}/{fastest(models)['id']}",
        "provider": {PROVIDER: provider(models, base_url, api_key)},
    }


def capable(models: Sequence[Model], min_context: int | None = None) -> list[Model]:
    """The models that answer chats and whose context is large enough, by name.

    Without `min_context`, it is large enough if opencode can work in it. Left out are models that
    embed, rank, speak, listen or draw, those whose workers the settings leave out, and those of
    unknown context: opencode would fill it until the server fails.
    """
    matches = [
        model
        for model in models
        if is_available(model)
        and facts_of(model).writes_text
        and _context(model) >= (_least_context(model) if min_context is None else min_context)
    ]
    return sorted(matches, key=lambda model: str(model["id"]))


def needed_context(min_context: int | None) -> str:
    """A few words on the context that `capable` asks for."""
    if min_context is None:
        return f"{LEAST_DIET_CONTEXT} tokens ({LEAST_CONTEXT} on servers that are no horde)"
    return f"{min_context} tokens"


def left_out(models: Sequence[Model], min_context: int | None = None) -> str:
    """A few words on the models that `capable` leaves out because their context is unknown, or "".

    They answer chats, but their servers tell no context. With a `min_context` of 0 they are in.
    """
    facts = ((str(model["id"]), facts_of(model)) for model in models)
    names = sorted(name for name, known in facts if known.writes_text and not known.length)
    if not names or (min_context is not None and min_context <= 0):
        return ""
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return f"left out, of unknown context: {', '.join(names[:_MOST_NAMES])}{more}"


def best(models: Sequence[Model]) -> Model:
    """The most available model; those with a comfortable context come first."""
    return max(
        models,
        key=lambda model: (
            _context(model) >= COMFORTABLE_CONTEXT,
            # One is added, since a model without a queue has an eta of 0.
            _horde_number(model, "threads") / (1 + _horde_number(model, "eta")),
            _horde_number(model, "tokens_per_second"),
        ),
    )


def fastest(models: Sequence[Model]) -> Model:
    """The model for opencode's short titles (`small_model`): a high speed and a short queue."""
    return max(
        models,
        key=lambda model: (
            _horde_number(model, "tokens_per_second") / (1 + _horde_number(model, "eta")),
            _horde_number(model, "threads"),
        ),
    )


def write(path: Path, text: str) -> bool:
    """Put a text into a file, whole or not at all. False if the file has that text already."""
    # Half a surrogate pair, which UTF-8 cannot encode, becomes JSON's own escape: "\\ud800".
    content = text.encode("utf-8", "backslashreplace")
    if path.is_file() and path.read_bytes() == content:
        return False
    # A link stays a link: its target is replaced. The new file is made beside the target, because
    # a rename cannot cross file systems.
    target = path.resolve()
    if target.is_symlink():  # a loop: before Python 3.13 `resolve` raises an error of its own
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
        dir=target.parent, prefix=f".{target.name}.", delete=False
    ) as file:
        try:
            file.write(content)
            # The text must be on disk before the name is: otherwise a crash of the machine could
            # leave an empty file.
            file.flush()
            os.fsync(file.fileno())
            # A temporary file has mode 0600; the old file's mode is the user's choice.
            os.chmod(file.name, target.stat().st_mode & 0o777 if target.exists() else 0o644)
            os.replace(file.name, target)
        except BaseException:  # Ctrl-C as well: nothing may be left beside the user's file
            os.unlink(file.name)
            raise
    return True


def _entry(model: Model) -> dict[str, Any]:
    facts = facts_of(model)
    context = facts.length or 0
    # opencode keeps the output free of history, so it is at most a quarter of the context.
    output = min(LONGEST_ANSWER, context // 4, facts.max_output or LONGEST_ANSWER)
    # False only where it is known: a server without tools in its template may still do them.
    has_tools = facts.tools is not False and _horde_object(model).get("tools") != "none"
    entry: dict[str, Any] = {
        "name": model["id"],
        "tool_call": has_tools,
        "limit": {"context": context, "output": output},
    }
    if facts.reasoning:
        entry["reasoning"] = True
    if "image" in facts.inputs:
        inputs = [word for word in facts.inputs if word in _MODALITIES]
        entry |= {"attachment": True, "modalities": {"input": inputs, "output": ["text"]}}
    cost = _cost(model)
    return {**entry, "cost": cost} if cost else entry


def _cost(model: Model) -> dict[str, float] | None:
    """opencode's `cost`, in dollars for a million tokens; None where nobody tells one."""
    if _horde_object(model):
        return {"input": 0, "output": 0}
    # OpenRouter's prices are for one token, as texts: "0.000003".
    pricing = as_mapping(model.get("pricing"))
    prices = [_price(pricing.get(name)) for name in ("prompt", "completion")]
    if None in prices:
        return None
    [prompt, completion] = prices
    return {"input": prompt or 0, "output": completion or 0}


def _price(value: object) -> float | None:
    """The dollars for a million tokens; None for what is not the price of one."""
    try:
        price = finite(float(value) if isinstance(value, str) else value)
    except ValueError:
        return None
    return None if price is None else round(price * 1_000_000, 6)


# Only the horde's entries are made by us. Those of other servers are completed (protocol.models),
# but a field may be missing, null or of another type: the proxy may be an older one.


def _context(model: Model) -> int:
    """The context in tokens; 0 if the server does not say."""
    return facts_of(model).length or 0


def _least_context(model: Model) -> int:
    """The least context in which opencode can work: on a horde, prompts have a diet."""
    return LEAST_DIET_CONTEXT if _horde_object(model) else LEAST_CONTEXT


def _horde_object(model: Model) -> Mapping[str, Any]:
    """The model's `horde` object; empty for a model of another server."""
    return as_mapping(model.get("horde"))


def _horde_number(model: Model, name: str) -> float:
    """A number of the model's `horde` object; 0 if there is none."""
    return finite(_horde_object(model).get(name)) or 0.0
