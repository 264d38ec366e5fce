"""Real clients of Anthropic's API against the proxy, with a model that follows a script."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.client_scenario import COLD, GREETING, MODEL, THOUGHT
from tests.live.client_programs import CLAUDE_CODE, SCRIPTS, run
from tests.live.request_tap import RequestTap

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_anthropic_for_python_streams_thinks_and_runs_tools(tap: RequestTap, python: Path) -> None:
    answer = run([python / "python", SCRIPTS / "anthropic_client.py", tap.url, MODEL], SCRIPTS)
    assert json.loads(answer) == {
        "streamed": GREETING,
        "thoughts": [THOUGHT],
        "asked": ["Oslo"],
        "text": COLD,
        "stop": "end_turn",
        "counted": True,
        "listed": True,
        "missing": "not_found_error",
    }


def test_anthropic_for_node_streams_thinks_and_uses_tools(
    tap: RequestTap, answer_scripts: Path
) -> None:
    answer = run(["node", "anthropic_node.mjs", tap.url, MODEL], answer_scripts)
    assert json.loads(answer) == {
        "streamed": GREETING,
        "thoughts": [THOUGHT],
        "call": {"city": "Oslo"},
        "reason": "tool_use",
        "text": COLD,
        "stop": "end_turn",
    }


def test_the_ai_sdk_for_anthropic_streams_and_calls_tools(
    tap: RequestTap, answer_scripts: Path
) -> None:
    answer = run(["node", "ai_sdk_anthropic.mjs", f"{tap.url}/v1", MODEL], answer_scripts)
    assert json.loads(answer.splitlines()[-1]) == {
        "streamed": GREETING,
        "thought": THOUGHT,
        "finish": "stop",
        "asked": ["Oslo"],
        "called": COLD,
    }


def claude(packages: Path, url: str, task: str, folder: Path, home: Path) -> dict[str, Any]:
    """What Claude Code says of the task, which it does in the folder."""
    program = packages / "node_modules" / CLAUDE_CODE / "claude"
    options = ["--output-format", "json", "--allowedTools", "Bash,Edit,Read,Write"]
    answer = run(
        [program, "-p", task, *options],
        folder,
        HOME=str(home),
        ANTHROPIC_BASE_URL=url,
        ANTHROPIC_API_KEY="none",
        ANTHROPIC_MODEL=MODEL,
        ANTHROPIC_DEFAULT_HAIKU_MODEL=MODEL,
        CLAUDE_CODE_MAX_CONTEXT_TOKENS="65536",
        CLAUDE_CODE_MAX_OUTPUT_TOKENS="1024",
        CLAUDE_CODE_ATTRIBUTION_HEADER="0",
        CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC="1",
    )
    found: dict[str, Any] = json.loads(answer)
    return found


def test_claude_code_reads_edits_runs_writes_and_finishes(
    tap: RequestTap, served: tuple[str, Path], answer_packages: Path, tmp_path: Path
) -> None:
    (served[1] / "notes.txt").write_text("helo claude\n")
    (served[1] / "done.txt").unlink(missing_ok=True)
    task = "repair the spelling in notes.txt"
    found = claude(answer_packages, tap.url, task, served[1], tmp_path)
    assert (found["is_error"], found["result"]) == (False, "Done: the spelling is right.")
    assert (served[1] / "notes.txt").read_text() == "hello claude\n"
    assert (served[1] / "done.txt").is_file()
    # One request a turn: nothing was sent again.
    assert len(tap.posts("/v1/messages")) == 5


def test_claude_code_shows_the_text_that_follows_a_thought(
    tap: RequestTap, served: tuple[str, Path], answer_packages: Path, tmp_path: Path
) -> None:
    """It takes the last block for the result, which was empty while thoughts came last."""
    found = claude(answer_packages, tap.url, "think and greet", served[1], tmp_path)
    assert (found["is_error"], found["result"]) == (False, GREETING)
