"""The programs and libraries that are tested as clients, of the npm registry and of PyPI.

Each group is installed once, into a folder of the user's cache that is named after its versions. A
registry that cannot be reached, or a group that is not installed in time, skips the tests.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent / "clients"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "horde-proxy-tests"

# The native program: npm would choose an old version of the other package where Node is below 22.
CLAUDE_CODE = "@anthropic-ai/claude-code-linux-" + (
    "arm64" if platform.machine() in ("aarch64", "arm64") else "x64"
)
CHAT_PACKAGES = (
    "opencode-ai@1.18.33",
    "openai@6.49.0",
    "ai@6.0.326",
    "@ai-sdk/openai-compatible@2.0.92",
    "zod@4.6.7",
)
ANSWER_PACKAGES = (
    "@openai/codex@0.171.0",
    f"{CLAUDE_CODE}@2.1.332",
    "@openai/agents@0.20.0",
    "openai@7.59.0",
    "@anthropic-ai/sdk@1.14.0",
    "ai@7.0.173",
    "@ai-sdk/openai@4.0.118",
    "@ai-sdk/anthropic@4.0.105",
    "ollama@0.6.4",
    "ollama-ai-provider-v2@4.0.1",
    "zod@4.6.7",
)
PYTHON_PACKAGES = (
    "llm==0.36",
    "langchain-openai==1.7.4",
    "langchain-ollama==1.1.0",
    "openai-agents==0.24.0",
    "anthropic==2.14.0",
    "ollama==0.6.3",
    "openresponses-types==2.4.0",
    "requests~=2.34",
)
SETUP_NPM_PACKAGES = (
    "@qwen-code/qwen-code@0.24.4",
    "@continuedev/cli@1.5.47",
    "cline@3.0.65",
)
"""Clients that only the tests of `horde-proxy setup` run."""
SETUP_PYTHON_PACKAGES = ("aider-chat==0.86.2",)
OPENCODE = {
    "OPENCODE_DISABLE_MODELS_FETCH": "1",
    "OPENCODE_DISABLE_AUTOUPDATE": "1",
    "OPENCODE_DISABLE_LSP_DOWNLOAD": "1",
    "OPENCODE_DISABLE_DEFAULT_PLUGINS": "1",
}
"""Variables that keep opencode from the internet."""

IMAGE_PACKAGES = ("langchain-community==0.4.2", "openai==3.57.0")
_INSTALL_SECONDS = 400
"""About ten times as long as the largest group takes (900 MB)."""


def npm_packages(name: str, packages: Sequence[str]) -> Path:
    """The folder with the packages' node_modules. Skips the test where they cannot be had."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    folder = _folder(name, packages)
    with _only_one_process(folder):
        if not (folder / "complete").is_file():
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "package.json").write_text('{"private": true, "type": "module"}')
            # By default npm waits for minutes before it gives up a registry.
            options = [
                "--no-audit",
                "--no-fund",
                "--fetch-retries=1",
                "--fetch-retry-mintimeout=1000",
            ]
            _install(["npm", "install", *options, *packages], folder)
    return folder


def python_packages(name: str, packages: Sequence[str]) -> Path:
    """The folder of the programs of a virtual environment. Skips where it cannot be made."""
    folder = _folder(name, packages)
    with _only_one_process(folder):
        if not (folder / "complete").is_file():
            subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, timeout=120)
            _install(
                [str(folder / "bin" / "pip"), "install", "-q", "--retries=1", *packages], folder
            )
    return folder / "bin"


def _folder(name: str, packages: Sequence[str]) -> Path:
    versions = hashlib.sha256(" ".join(packages).encode()).hexdigest()
    return CACHE / f"{name}-{versions[:12]}"


@contextmanager
def _only_one_process(folder: Path) -> Iterator[None]:
    """The processes of pytest-xdist share the folders: all but the first wait until it is there."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _install(command: list[str], folder: Path) -> None:
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=_INSTALL_SECONDS
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"{command[0]} did not install within {_INSTALL_SECONDS} s")
    if done.returncode:
        pytest.skip(f"{command[0]} cannot install: {(done.stderr or done.stdout)[-300:]}")
    (folder / "complete").touch()


def script_folder(packages: Path, folder: Path) -> Path:
    """A folder in which Node finds the packages and this project's scripts for them."""
    (folder / "node_modules").symlink_to(packages / "node_modules")
    (folder / "package.json").write_text('{"private": true, "type": "module"}')
    for script in SCRIPTS.glob("*.mjs"):
        shutil.copy(script, folder)
    return folder


def run(command: Sequence[str | Path], cwd: Path, **environ: str) -> str:
    """What the program writes. Fails with all it wrote where it ends with an error."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "PWD": str(cwd), **environ},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
