"""The built-in runner as a backend: "smollm2", or the path of a GGUF file.

The runner needs numpy and gguf (extra `local`), so it is imported only when a model is opened.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import cast

from horde_proxy.extras import command_for
from horde_proxy.worker import model_file
from horde_proxy.worker.backends.base import Backend, BackendError, BackendOptions

LOCAL_EXTRA = command_for("local")
"""How to install what the runner needs."""


def can_run_gguf() -> bool:
    """Whether the extra `local` is installed."""
    return find_spec("numpy") is not None and find_spec("gguf") is not None


def open_model(name: str, options: BackendOptions) -> Backend | None:
    """The model for "smollm2" or for a GGUF file; None for another name.

    Raises BackendError, and ModelFileError for a SmolLM2 that is not the known file.
    """
    if name == "smollm2":
        return _load(model_file.installed() or model_file.default_path())
    return _load(Path(name)) if Path(name).is_file() else None


def _load(path: Path) -> Backend:
    if not can_run_gguf():
        raise BackendError(f"numpy and gguf are missing; {LOCAL_EXTRA}")
    if not path.is_file():
        raise BackendError(f"there is no model file {path}; `horde-proxy model install` gets one")
    from horde_proxy.worker.llama import Llama, UnusableModel

    try:
        return cast(Backend, Llama.load(path))
    except UnusableModel as exc:
        raise BackendError(str(exc)) from exc
