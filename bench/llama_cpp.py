"""A real llama.cpp for measurements and tests: its program, its model, the command that starts it.

    LLAMA_SERVER   the path of llama.cpp's `llama-server`. Without it, the server comes from the
                   Python package xllamacpp, which pip installs once into an environment of its own
    MODEL          the path of a GGUF file. Without it, it is the one of `horde-proxy model install`

That environment's Python runs this file as the program, with llama-server's own options. So nothing
outside of the standard library is imported at the top.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

PACKAGE = "xllamacpp==2026.10.11549"
"""Its wheel has llama.cpp's server for any x86-64 with AVX2. Programs that use AMX end with "AMX is
not ready to be used!" on virtual machines that have it, but do not permit it."""
ALIAS = "smol"
"""The model's name at the server."""
_CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "horde-proxy-tests"


class NoLlamaCpp(Exception):
    """There is no llama.cpp, or no model for it. The message says how to get them."""


def command(
    host: str,
    port: int,
    *,
    slots: int = 2,
    context: int = 4096,
    template: Path | None = None,
) -> list[str]:
    """The command that starts llama.cpp with one thread. Raises NoLlamaCpp.

    `context` is in tokens, for all slots together. `template` is the file of a chat template, where
    it is not to be the model's own.
    """
    options: dict[str, object] = {
        "-m": model(),
        "--alias": ALIAS,
        "--host": host,
        "--port": port,
        "-np": slots,
        "-c": context,
        # Two that wait for each other are slower than one where other programs run.
        "-t": 1,
        # Without these, a text at temperature 0 depends on what was computed together.
        "-fa": "off",
        "-ctk": "f32",
        "-ctv": "f32",
        **({"--chat-template-file": template} if template else {}),
    }
    return [*program(), *(str(word) for option in options.items() for word in option)]


def model() -> Path:
    """The path of the model file. Raises NoLlamaCpp."""
    from horde_proxy.worker.model_file import installed

    path = Path(given) if (given := os.environ.get("MODEL")) else installed()
    if path is None or not path.is_file():
        raise NoLlamaCpp(
            "There is no model for llama.cpp: run `horde-proxy model install`, or set MODEL to a "
            "GGUF file."
        )
    return path


def program() -> list[str]:
    """The words that begin the command. Installs the package where needed. Raises NoLlamaCpp."""
    if given := os.environ.get("LLAMA_SERVER"):
        if not os.access(given, os.X_OK):
            raise NoLlamaCpp(f"LLAMA_SERVER is no program: {given}")
        return [given]
    folder = _CACHE / PACKAGE.replace("==", "-")
    python = folder / "bin" / "python"
    if not list(folder.glob("lib/*/site-packages/xllamacpp")):
        venv.create(folder, with_pip=True)
        pip = [str(python), "-m", "pip", "install", "-q", "--only-binary", ":all:", PACKAGE]
        done = subprocess.run(pip, capture_output=True, text=True, check=False)
        if done.returncode:
            raise NoLlamaCpp(
                f"{PACKAGE} cannot be installed here. Set LLAMA_SERVER to llama.cpp's llama-server."
            )
    return [str(python), str(Path(__file__).resolve())]


def _serve(arguments: Sequence[str]) -> None:
    """Serve until a signal ends the process."""
    import xllamacpp

    parser = argparse.ArgumentParser()
    parser.add_argument("-m", required=True)
    parser.add_argument("--alias", required=True)
    parser.add_argument("--host", required=True)
    for name in ("--port", "-np", "-c", "-t"):
        parser.add_argument(name, type=int, required=True)
    parser.add_argument("-fa", choices=["off"], required=True)
    for name in ("-ctk", "-ctv"):
        parser.add_argument(name, choices=["f32"], required=True)
    parser.add_argument("--chat-template-file", type=Path)
    parser.add_argument("--metrics", action="store_true")
    options = parser.parse_args(arguments)
    params = xllamacpp.CommonParams()
    params.model.path, params.model_alias = options.m, {options.alias}
    params.hostnames, params.port = [options.host], options.port
    params.n_parallel, params.n_ctx = options.np, options.c
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = options.t
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    if options.chat_template_file:
        params.chat_template = options.chat_template_file.read_text()
    params.endpoint_metrics = options.metrics
    # It serves as long as it is referenced.
    server = xllamacpp.Server(params)
    print(f"llama.cpp listens at {server.listening_address}", flush=True)
    signal.pause()


if __name__ == "__main__":
    _serve(sys.argv[1:])
