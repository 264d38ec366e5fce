"""Opening a backend by what the user calls it."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import cast

from horde_proxy.worker import model_file, remote
from horde_proxy.worker.backend import Backend, BackendError
from horde_proxy.worker.echo import Echo, read_scenario
from horde_proxy.worker.ngram import NGram

LOCAL_EXTRA = f'{sys.executable} -m pip install -e ".[local]"'


def open_backend(
    name: str,
    *,
    model: str | None = None,
    max_length: int | None = None,
    max_context_length: int | None = None,
    delay: float = 0.0,
    speed: float = 0.0,
    scenario: Path | None = None,
) -> Backend:
    """The backend for "echo", "ngram", "smollm2", a GGUF file's path or a server's URL.

    Raises BackendError. `model` is for servers, the lengths for servers and the echo, `delay` (s)
    `speed` (tokens/s) and `scenario` for the echo.
    """
    if name.startswith(("http://", "https://")):
        return remote.connect(
            name, model=model, max_length=max_length, max_context_length=max_context_length
        )
    if name == "echo":
        return Echo(
            delay,
            speed=speed,
            max_length=max_length,
            max_context_length=max_context_length,
            scenario=read_scenario(scenario) if scenario else (),
        )
    if name == "ngram":
        return NGram()
    if name == "smollm2":
        return _llama(model_file.default_path())
    if not Path(name).is_file():
        raise BackendError(
            f"no backend {name!r}: take smollm2, ngram, echo, the path of a GGUF file, or the URL "
            "of a server"
        )
    return _llama(Path(name))


def can_run_gguf() -> bool:
    """Whether the extra `local` is installed."""
    return find_spec("numpy") is not None and find_spec("gguf") is not None


def _llama(path: Path) -> Backend:
    if not can_run_gguf():
        raise BackendError(f"numpy and gguf are missing: {LOCAL_EXTRA}")
    if not path.is_file():
        raise BackendError(f"there is no model file {path}; `horde-proxy model install` gets one")
    from horde_proxy.worker.llama import Llama, UnusableModel

    try:
        return cast(Backend, Llama.load(path))
    except UnusableModel as exc:
        raise BackendError(str(exc)) from exc
