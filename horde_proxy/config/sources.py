"""The sources of the settings: flags go before the environment, the file and the defaults.

Errors name the setting, its value and its source, but show no value that may be a key.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import reduce
from typing import Any

from pydantic import ValidationError

from horde_proxy.config.access import KeySettings
from horde_proxy.config.endpoints import EndpointSettings
from horde_proxy.config.errors import ConfigError
from horde_proxy.config.file import SettingsFile, read_file
from horde_proxy.config.origins import Layer, Origin, origins
from horde_proxy.config.permissions import refuse_foreign_command
from horde_proxy.config.settings import Config
from horde_proxy.config.settings_sources import FILE_VARIABLE, SettingsSources
from horde_proxy.config.unknown_names import no_such_setting, tables_of

PREFIX = "HORDE_PROXY_"
_OTHER_VARIABLES = (
    "AI_HORDE_API_KEY",
    "PORT",
    "TARGET_OPENAI_URL",
    "ENDPOINTS",
    "API_KEY",
    "TIMEOUT",
)
"""Variables that are settings, beside those that begin with the prefix."""
_PLACES = ("STATE_DIRECTORY", "XDG_STATE_HOME", "HOME", "CREDENTIALS_DIRECTORY")
"""Variables that say where the page's file is, and whether a file is a credential."""
_DEFAULT_HOST = "127.0.0.1"
_TARGET_TIMEOUT = "60"
"""Seconds: the default of TIMEOUT, which goes with TARGET_OPENAI_URL and ENDPOINTS."""


_WHAT_TO_SAY = (
    ", and nothing else says where chats go: they would go to the public horde. Name your servers, "
    "or write [[endpoints]] with type = 'horde' if you mean the public horde, or leave this out"
)


def load(
    path: str | None = None,
    environ: Mapping[str, str] = os.environ,
    flags: Mapping[str, Any] | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> Config:
    """The configuration of the files (see settings_sources), the environment and flags.

    `flags` is nested like the file: {"server": {"bind": ...}}; so are `defaults`, which hold where
    nothing else sets a value. Raises ConfigError.
    """
    return load_sources(SettingsSources(path, environ, flags or {}, defaults or {})).config


def load_with_origins(
    path: str | None = None,
    environ: Mapping[str, str] = os.environ,
    flags: Mapping[str, Any] | None = None,
) -> tuple[Config, list[Origin]]:
    """The configuration as `load` reads it, and where each setting comes from."""
    loaded = load_sources(SettingsSources(path, environ, flags or {}))
    return loaded.config, origins(loaded.config, loaded.layers)


@dataclass(frozen=True)
class LoadedSettings:
    """The configuration and its sources, each of which goes before those before it."""

    config: Config
    layers: list[Layer]

    def layers_after(self, path: str) -> list[Layer]:
        """The sources that go before a file, which may not be there yet."""
        names = [file.path for file in self.config.files]
        return self.layers[names.index(path) + 1 if path in names else len(names) :]

    def layers_before(self, path: str) -> list[Layer]:
        """The files that a file goes before."""
        names = [file.path for file in self.config.files]
        return self.layers[: names.index(path) if path in names else len(names)]


def load_sources(
    sources: SettingsSources, contents: Mapping[str, bytes] | None = None
) -> LoadedSettings:
    """The configuration and its layers. Raises ConfigError.

    `contents` are read instead of the files of these paths, to try a change of one.
    """
    path, environ = sources.path, sources.environ
    files, layers, foreign = _read_files(sources, contents or {})
    layers += _environment(environ, _host([tree for _, tree in layers]))
    layers += [("the command line", sources.flags)]
    merged = reduce(_merge, (tree for _, tree in layers), sources.defaults)
    try:
        config = Config.model_validate(merged)
    except ValidationError as exc:
        raise ConfigError(explain(exc, layers, _may_be_shown, _no_such)) from None
    if any(isinstance(endpoint.idle_hook, list) for endpoint in config.endpoints):
        for file in files:
            refuse_foreign_command(file.path)
    silent = [*_silent_places(path, environ), *_silent_layers(sources, files, layers, foreign)]
    if silent and not config.says_where_chats_go():
        raise ConfigError(silent[0] + _WHAT_TO_SAY)
    # Settings are handed to other processes: only what the next reading needs goes with them.
    kept = {name: value for name, value in environ.items() if _is_needed(name)}
    return LoadedSettings(config.read_from(files, replace(sources, environ=kept)), layers)


def _read_files(
    sources: SettingsSources, contents: Mapping[str, bytes]
) -> tuple[list[SettingsFile], list[Layer], dict[str, Any]]:
    """The files that are there, what each of them sets, and all names of the operator's file."""
    files, layers, names = [], list[Layer](), dict[str, Any]()
    main = sources.main_file
    if main is not None:
        file, names = read_file(main, contents.get(main))
        files.append(file)
        layers.append((file.path, _settings_in(file, names)))
    page = sources.page_file
    if page is not None and (page in contents or os.path.exists(page)):
        file, settings = read_file(page, contents.get(page))
        files.append(file)
        layers.append((file.path, settings))
    return files, layers, names


def _is_needed(name: str) -> bool:
    return is_setting_variable(name) or name in _PLACES


def is_setting_variable(name: str) -> bool:
    """Whether settings are read from an environment variable of this name."""
    return name.startswith(PREFIX) or name in _OTHER_VARIABLES


def file_of(path: str | None, environ: Mapping[str, str] = os.environ) -> str | None:
    """The file that the settings come from, if any: `path`, or HORDE_PROXY_CONFIG."""
    return path or environ.get(FILE_VARIABLE) or None


def _settings_in(file: SettingsFile, names: dict[str, Any]) -> dict[str, Any]:
    """What the file sets. A Python file may have other names besides; in TOML they are errors."""
    if not file.is_python:
        return names
    return {name: names[name] for name in Config.model_fields if name in names}


def _silent_places(path: str | None, environ: Mapping[str, str]) -> Iterator[str]:
    """What was given to name a file or servers and is empty, as `ENDPOINTS=$UNSET` in a shell."""
    if path == "":
        yield "--config is empty"
    elif path is None and environ.get(FILE_VARIABLE) == "":
        yield f"environment variable {FILE_VARIABLE} is empty"
    if environ.get("TARGET_OPENAI_URL") == "":
        yield "environment variable TARGET_OPENAI_URL is empty"
    if "ENDPOINTS" in environ and not _urls_and_keys(environ["ENDPOINTS"].strip(), None):
        yield "environment variable ENDPOINTS names no server"


def _silent_layers(
    sources: SettingsSources,
    files: list[SettingsFile],
    layers: list[Layer],
    names: Mapping[str, Any],
) -> Iterator[str]:
    """A file that sets nothing, endpoints under a wrong name, lists of endpoints that are empty.

    `names` are those of the operator's file.
    """
    for file, (_, tree) in zip(files, layers, strict=False):
        # A page may have taken back all that it had set; then its heading is left.
        is_page_file = file.path == sources.page_file
        if not (file.text.strip() if is_page_file else _sets_anything(tree)):
            yield f"the configuration {file.path} sets nothing"
    # In TOML, an unknown name is an error; Python has names of its own.
    similar = [name for name in names if get_close_matches(name.lower(), ["endpoints"], 1, 0.8)]
    if files and similar and "endpoints" not in names:
        yield f"the configuration {files[0].path} sets {similar[0]!r}, and not 'endpoints'"
    for source, tree in layers:
        if tree.get("endpoints") == []:
            yield f"setting endpoints = [] from {source} names no server"


def _sets_anything(tree: Mapping[str, Any]) -> bool:
    """Whether a tree has a setting, and not only names of tables."""
    values = tree.values()
    return any(_sets_anything(value) if isinstance(value, Mapping) else True for value in values)


def _host(trees: Sequence[Mapping[str, Any]]) -> str:
    """The host of the files' server.bind, for which PORT sets the port."""
    none: Mapping[str, Any] = {}
    server = reduce(_merge, trees, none).get("server")
    bind = str(server.get("bind", "")) if isinstance(server, Mapping) else ""
    return bind.rpartition(":")[0] if "/" not in bind and ":" in bind else _DEFAULT_HOST


def _environment(environ: Mapping[str, str], host: str) -> list[Layer]:
    """One layer for each variable that is ours. PORT is a port of `host`."""
    trees: dict[str, dict[str, Any]] = _target_endpoints(environ)
    if environ.get("PORT"):
        trees["PORT"] = {"server": {"bind": f"{host}:{environ['PORT']}"}}
    if environ.get("AI_HORDE_API_KEY"):
        trees["AI_HORDE_API_KEY"] = {"horde": {"api_key": environ["AI_HORDE_API_KEY"]}}
    for name in sorted(environ):
        section, separator, _ = name.removeprefix(PREFIX).lower().partition("__")
        # Kubernetes sets HORDE_PROXY_PORT and the like for a service called horde-proxy.
        if name.startswith(PREFIX) and (separator or section in Config.model_fields):
            trees[name] = _variable(name, environ[name])
    return [(f"environment variable {name}", tree) for name, tree in trees.items()]


def _target_endpoints(environ: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """The endpoints of TARGET_OPENAI_URL and ENDPOINTS, with API_KEY and TIMEOUT (s)."""
    key = environ.get("API_KEY") or None
    target, listed = environ.get("TARGET_OPENAI_URL"), environ.get("ENDPOINTS", "").strip()
    keys = {target: key} if target else {}
    keys.update(_urls_and_keys(listed, key))
    if not keys:
        return {}
    seconds = _seconds(environ.get("TIMEOUT") or _TARGET_TIMEOUT)
    source = " and ".join(name for name in ("TARGET_OPENAI_URL", "ENDPOINTS") if environ.get(name))
    return {
        source: {
            "endpoints": [
                {"url": url, "api_key": api_key or None, "timeout": seconds}
                for url, api_key in keys.items()
            ]
        }
    }


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0
    if not 0 < seconds < math.inf:
        raise ConfigError(f"environment variable TIMEOUT = {text!r}: expected seconds above 0")
    return seconds


def _urls_and_keys(text: str, key: str | None) -> dict[str, str | None]:
    """URLs and their keys: a JSON object, a JSON array of URLs, or URLs with commas between."""
    if not text.startswith(("{", "[")):
        return {url.strip(): key for url in text.split(",") if url.strip()}
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise ConfigError("environment variable ENDPOINTS: its JSON is not valid") from None
    pairs = document.items() if isinstance(document, dict) else [(url, key) for url in document]
    if not all(isinstance(url, str) and isinstance(own_key, str | None) for url, own_key in pairs):
        raise ConfigError("environment variable ENDPOINTS: expected URLs and their keys")
    return dict(pairs)


def _variable(name: str, value: str) -> dict[str, Any]:
    """The settings in one variable: lists, tables and sections are JSON, all else is text."""
    section, separator, field = name.removeprefix(PREFIX).lower().partition("__")
    is_json = value.startswith(("[", "{"))
    try:
        parsed = json.loads(value) if is_json or not separator else value
    except (ValueError, RecursionError):
        if not separator or value.startswith("{"):
            raise ConfigError(f"environment variable {name}: expected JSON") from None
        # A text that only begins like a list, as in "[::1]:8080".
        parsed = value
    return {section: {field: parsed} if separator else parsed}


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """The second over the first, table by table; a list replaces a list."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        both = isinstance(below, Mapping) and isinstance(value, Mapping)
        merged[key] = _merge(below, value) if both else value  # type: ignore[arg-type]
    return merged


def explain(
    exc: ValidationError,
    layers: Sequence[Layer],
    may_be_shown: Callable[[list[str], str], bool],
    no_such: Callable[[list[str]], str],
) -> str:
    """A line for each error: the setting, its value, its source and the reason.

    `may_be_shown` gets a setting and the kind of the error, `no_such` makes the reason for one that
    does not exist.
    """
    lines = []
    for error in exc.errors():
        where = [str(part) for part in error["loc"]]
        if not where:
            lines.append(error["msg"].removeprefix("Value error, "))
            continue
        value = repr(error["input"])
        # A URL of any setting may have a password: http://USER:PASSWORD@HOST.
        if "@" in value or not may_be_shown(where, error["type"]):
            value = "(hidden)"
        present = where[:-1] if error["type"] == "missing" else where
        source = next((name for name, tree in reversed(layers) if _has(tree, present)), "a default")
        reason = error["msg"].removeprefix("Value error, ")
        if error["type"] == "extra_forbidden":
            reason = no_such(where)
        lines.append(f"setting {'.'.join(where)} = {value} from {source}: {reason}")
    return "\n".join(lines)


_SECRETS = ("api_key", "redis_url")
_PUBLIC_OF_ENDPOINTS = ("type", "weight", "priority", "timeout", "name")
"""What of an endpoint may be shown; its url and headers may hold a password."""


def _may_be_shown(where: list[str], kind: str) -> bool:
    """Whether a value cannot be a key: only values of known settings that hold none are shown."""
    is_leaf = len(where) > 1 and kind != "extra_forbidden"
    may_be_secret = where[-1] in _SECRETS or where[0] in ("access", "endpoints")
    is_public = where[0] == "endpoints" and where[-1] in _PUBLIC_OF_ENDPOINTS
    return (is_leaf and (not may_be_secret or is_public)) or where == ["formats"]


def _no_such(where: list[str]) -> str:
    """The reason for a setting that does not exist, with its table or the nearest that does."""
    section = Config.model_fields.get(where[0])
    nested: Any = section.annotation if section and len(where) > 1 else Config
    if where[0] == "endpoints" and len(where) > 1:
        nested = EndpointSettings
    if where[:2] == ["access", "keys"]:
        nested = KeySettings
    fields = list(getattr(nested, "model_fields", {}))
    if nested is Config:
        sections = {name: field.annotation for name, field in Config.model_fields.items()}
        homes = [
            name
            for name, section_type in sections.items()
            if where[0] in getattr(section_type, "model_fields", {})
        ]
        if homes:
            return f"there is no such setting; did you mean {homes[0]}.{where[0]}?"
    return no_such_setting(where[-1], fields, {} if nested is Config else tables_of(Config))


def _has(tree: Any, where: list[str]) -> bool:
    """Whether a source gives a setting."""
    for part in where:
        if isinstance(tree, list) and part.isdigit() and int(part) < len(tree):
            tree = tree[int(part)]
        elif isinstance(tree, Mapping):
            if part not in tree:
                return False
            tree = tree[part]
    return True
