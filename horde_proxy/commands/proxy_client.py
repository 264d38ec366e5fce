"""A running proxy, as commands talk to it over HTTP. Every failure is a ClickException."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import requests

from horde_proxy.aihorde.rest import json_object
from horde_proxy.commands.options import load_settings
from horde_proxy.errors import UpstreamFailed
from horde_proxy.protocol.chunks import Head
from horde_proxy.upstreams.openai.events import ERROR_EVENT, events
from horde_proxy.upstreams.openai.tidy import ForeignAnswer
from horde_proxy.upstreams.sessions import new_session

KEY_NAME = "OPENAI_API_KEY"
"""The environment variable that OpenAI's clients, and these commands, read the key from."""
_TIMEOUT = (5.0, 300.0)
"""Seconds to connect, and between two bytes: the proxy sends a keep-alive every ten seconds."""

WHILE_TYPING = (0.5, 1.5)
"""The same while somebody waits at a shell's prompt."""


def base_url(url: str | None, path: str | None) -> str:
    """What comes before /models: a given URL, or where the settings say that the proxy listens."""
    url = url or f"{load_settings(path).server.bind}/v1"
    return (url if "://" in url else f"http://{url}").rstrip("/")


class ProxyUnreachable(click.ClickException):
    """No proxy answers at the address; it may be restarting."""


def get(
    base: str, path: str, key_name: str = KEY_NAME, timeout: tuple[float, float] = _TIMEOUT
) -> Any:
    """The JSON that the proxy answers. Raises ClickException.

    `key_name` is the environment variable that holds the key.
    """
    return _answer("GET", base, path, key_name, timeout=timeout)


def post(base: str, path: str, key_name: str = KEY_NAME, **content: Any) -> Any:
    """The same for a POST of `json`, or of a form of `data` and `files`."""
    return _answer("POST", base, path, key_name, **content)


def download(base: str, path: str, target: Path, key_name: str = KEY_NAME) -> None:
    """Write what the proxy answers to a file, which appears complete. Raises ClickException."""
    part = target.with_name(f"{target.name}.part")
    try:
        with new_session().get(
            base + path, headers=_headers(key_name), stream=True, timeout=_TIMEOUT
        ) as response:
            _raise_for_error(response, key_name)
            with part.open("wb") as file:
                for piece in response.iter_content(chunk_size=65_536):
                    file.write(piece)
            part.replace(target)
    except requests.RequestException as exc:
        raise _unreachable(base) from exc
    except OSError as exc:
        raise click.ClickException(f"{target} cannot be written: {exc.strerror}") from exc


def _answer(method: str, base: str, path: str, key_name: str, **content: Any) -> Any:
    content.setdefault("timeout", _TIMEOUT)
    try:
        response = new_session().request(method, base + path, headers=_headers(key_name), **content)
        _raise_for_error(response, key_name)
        return response.json()
    except requests.RequestException as exc:
        raise _unreachable(base) from exc


def get_list_if_there(base: str, path: str) -> Any:
    """A list object, or None from a proxy that has no horde, or whose statistics fail."""
    try:
        response = new_session().get(base + path, headers=_headers(), timeout=_TIMEOUT)
        document = response.json() if response.ok else None
    except requests.RequestException:
        return None
    is_list = isinstance(document, dict) and isinstance(document.get("data"), list)
    return document if is_list else None


def chat_deltas(base: str, model: str, text: str) -> Iterator[tuple[str, str | None]]:
    """The pieces of a streamed answer, each with the finish_reason. Raises ClickException.

    The proxy passes on what its own servers write, so that these events may have any shape.
    """
    body = {"model": model, "stream": True, "messages": [{"role": "user", "content": text}]}
    try:
        with new_session().post(
            f"{base}/chat/completions", json=body, headers=_headers(), stream=True, timeout=_TIMEOUT
        ) as response:
            _raise_for_error(response)
            answer = ForeignAnswer(Head("", 0, model))
            for chunk in answer.chunks(events(response.iter_content(chunk_size=None))):
                for choice in chunk["choices"]:
                    yield choice["delta"].get("content") or "", choice["finish_reason"]
    except UpstreamFailed as exc:
        raise click.ClickException(str(exc).removeprefix(ERROR_EVENT)) from exc
    except requests.RequestException as exc:
        raise _unreachable(base) from exc


def pictures(
    base: str, fields: dict[str, Any], sources: dict[str, bytes]
) -> Iterator[str | dict[str, Any]]:
    """How the wait goes, as texts, and the event of each picture. Raises ClickException.

    `sources` are the files of an edit by the names of their fields.
    """
    options: dict[str, Any] = {"headers": _headers(), "stream": True, "timeout": _TIMEOUT}
    files = {name: (name, data) for name, data in sources.items()}
    try:
        if files:
            texts = {name: _as_form(value) for name, value in fields.items()}
            response = new_session().post(
                f"{base}/images/edits", data=texts, files=files, **options
            )
        else:
            response = new_session().post(f"{base}/images/generations", json=fields, **options)
        with response:
            _raise_for_error(response)
            yield from _picture_events(response)
    except requests.RequestException as exc:
        raise _unreachable(base) from exc


def _as_form(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _picture_events(response: requests.Response) -> Iterator[str | dict[str, Any]]:
    """The comments and events of a stream of pictures. Raises ClickException for an error event."""
    for line in response.iter_lines(chunk_size=65_536, delimiter=b"\n"):
        if line.startswith(b":"):
            yield line[1:].decode("utf-8", "replace").strip()
        elif line.startswith(b"data:"):
            event = json_object(line[5:])
            if isinstance(event.get("error"), dict):
                raise click.ClickException(str(event["error"].get("message")))
            if event.get("b64_json"):
                yield event


def no_models(base: str) -> str:
    """What to say where the proxy lists no models."""
    endpoints = f"{base.removesuffix('/v1')}/v1/endpoints"
    return f"no models are available right now; {endpoints} says more"


def _headers(key_name: str = KEY_NAME) -> dict[str, str]:
    key = os.environ.get(key_name)
    return {"Authorization": f"Bearer {key}"} if key else {}


def _raise_for_error(response: requests.Response, key_name: str = KEY_NAME) -> None:
    if response.ok:
        return
    try:
        message = response.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        message = f"the proxy answered with status {response.status_code}"
    if response.status_code == 401:
        message += f" This command sends the key that {key_name} holds."
    raise click.ClickException(message)


def _unreachable(base: str) -> ProxyUnreachable:
    return ProxyUnreachable(f"no proxy answers at {base}: start one, or give its --url")
