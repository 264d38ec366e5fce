"""Real clients with the configuration that `horde-proxy setup` writes, against a scripted proxy.

Each has a home of its own, and the key in OPENAI_API_KEY; its answer shows that it read the file.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.client_scenario import GREETING
from tests.live.client_programs import (
    CLAUDE_CODE,
    OPENCODE,
    SETUP_NPM_PACKAGES,
    SETUP_PYTHON_PACKAGES,
    npm_packages,
    python_packages,
    run,
)
from tests.live.request_tap import RequestTap

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

Setup = Callable[..., dict[str, str]]


@pytest.fixture(params=["keyless", "keyed"])
def setup(tap: RequestTap, tmp_path: Path, request: pytest.FixtureRequest) -> Setup:
    """Runs setup for a client, with a try, and gives the variables of the client's process."""

    def configure(name: str, *options: str) -> dict[str, str]:
        environ = {"HOME": str(tmp_path), "OPENAI_API_KEY": ""}
        if request.param == "keyed":
            environ["OPENAI_API_KEY"] = "secret"
        words = [sys.executable, "-m", "horde_proxy", "setup", name, "--url", f"{tap.url}/v1"]
        home = dict.fromkeys(("XDG_CONFIG_HOME", "CODEX_HOME", "LLM_USER_PATH"), "")
        root = str(Path(__file__).parent.parent.parent)
        said = run([*words, *options], tmp_path, PYTHONPATH=root, **home, **environ)
        assert "It answers" in said
        return environ

    return configure


@pytest.fixture(scope="session")
def node_programs() -> Path:
    return npm_packages("node-setup", SETUP_NPM_PACKAGES) / "node_modules"


@pytest.fixture(scope="session")
def aider() -> Path:
    return python_packages("aider", SETUP_PYTHON_PACKAGES) / "aider"


def test_opencode(setup: Setup, chat_packages: Path, tmp_path: Path) -> None:
    program = chat_packages / "node_modules" / ".bin" / "opencode"
    environ = setup("opencode")
    assert run(
        [program, "run", "--title", "t", "hello"], tmp_path, **environ, **OPENCODE
    ).strip() == (GREETING)


def test_codex(setup: Setup, answer_packages: Path, tmp_path: Path) -> None:
    environ = setup("codex")
    last = tmp_path / "last.txt"
    options: list[str | Path] = [
        "--profile",
        "horde",
        "--skip-git-repo-check",
        "--output-last-message",
        last,
    ]
    program = answer_packages / "node_modules" / ".bin" / "codex"
    run([program, "exec", *options, "hello"], tmp_path, **environ)
    assert last.read_text() == GREETING


def test_claude(setup: Setup, answer_packages: Path, tmp_path: Path, tap: RequestTap) -> None:
    environ = setup("claude")
    program = answer_packages / "node_modules" / CLAUDE_CODE / "claude"
    settings = tmp_path / ".claude" / "horde.json"
    answer = run(
        [program, "--settings", settings, "-p", "hello", "--output-format", "json"],
        tmp_path,
        CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC="1",
        **environ,
    )
    assert json.loads(answer)["result"] == GREETING


def test_llm(setup: Setup, python: Path, tmp_path: Path) -> None:
    environ = setup("llm")
    assert run([python / "llm", "-m", "horde", "hello"], tmp_path, **environ).strip() == GREETING


def test_aider(setup: Setup, aider: Path, tmp_path: Path) -> None:
    environ = setup("aider")
    quiet = ["--no-git", "--no-check-update", "--analytics-disable", "--no-pretty", "--yes-always"]
    config = tmp_path / ".aider.horde.conf.yml"
    # aider gives an empty variable to its library as the key.
    environ = {name: value for name, value in environ.items() if value}
    said = run([aider, "--config", config, *quiet, "--message", "hello"], tmp_path, **environ)
    assert GREETING in said


def test_continue(setup: Setup, node_programs: Path, tmp_path: Path) -> None:
    environ = setup("continue")
    config = tmp_path / ".continue" / "agents" / "horde.yaml"
    program = node_programs / ".bin" / "cn"
    said = run([program, "--config", config, "-p", "hello"], tmp_path, **environ)
    assert GREETING in said


def test_cline(setup: Setup, node_programs: Path, tmp_path: Path) -> None:
    environ = setup("cline")
    program = node_programs / ".bin" / "cline"
    folder = tmp_path / ".cline" / "horde"
    said = run([program, "--data-dir", folder, "--json", "please say hello"], tmp_path, **environ)
    results = [json.loads(line) for line in said.splitlines() if '"run_result"' in line]
    assert GREETING in results[0]["text"]


def test_qwen_code(setup: Setup, node_programs: Path, tmp_path: Path) -> None:
    environ = setup("qwen-code")
    program = node_programs / ".bin" / "qwen"
    assert GREETING in run([program, "-p", "hello"], tmp_path, **environ)
