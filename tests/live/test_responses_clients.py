"""Real clients of OpenAI's Responses against the proxy, with a model that follows a script."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pydantic
import pytest

from tests.client_scenario import CODEX_MODELS, COLD, GREETING, MODEL, PERSON, THOUGHT
from tests.live.client_programs import OPENCODE, SCRIPTS, run
from tests.live.request_tap import RequestTap
from tests.live.scripted_proxy import serve_script

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """As in conftest.py; the model also answers to two names that Codex knows."""
    names = dict.fromkeys(CODEX_MODELS, MODEL)
    yield from serve_script(tmp_path_factory, aliases=json.dumps(names))


class Person(pydantic.BaseModel):
    name: str
    age: int


def test_openai_for_python_streams_parses_and_continues_responses(tap: RequestTap) -> None:
    tool: Any = {
        "type": "function",
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    }
    with openai.OpenAI(base_url=f"{tap.url}/v1", api_key="none") as client:
        parsed = client.responses.parse(model=MODEL, input="Invent a person.", text_format=Person)
        assert parsed.output_parsed == Person(name="Ann", age=3)
        with client.responses.stream(
            model=MODEL, input="What is the weather in Oslo?", tools=[tool]
        ) as stream:
            names = {event.type for event in stream}
            first = stream.get_final_response()
        [call] = [item for item in first.output if item.type == "function_call"]
        last = client.responses.create(
            model=MODEL,
            tools=[tool],
            previous_response_id=first.id,
            input=[
                {"type": "function_call_output", "call_id": call.call_id, "output": "cold in Oslo"}
            ],
        )
        again = client.responses.retrieve(last.id)
    assert "response.function_call_arguments.done" in names
    assert json.loads(call.arguments) == {"city": "Oslo"}
    assert (last.output_text, again.output_text) == (COLD, COLD)


def test_openai_for_node_streams_parses_and_continues_responses(
    tap: RequestTap, answer_scripts: Path
) -> None:
    answer = run(["node", "responses_node.mjs", f"{tap.url}/v1", MODEL], answer_scripts)
    assert json.loads(answer) == {
        "person": PERSON,
        "call": {"city": "Oslo"},
        "whole": True,
        "text": COLD,
        "status": "completed",
    }


def test_openai_agents_for_python_run_whole_and_streamed(tap: RequestTap, python: Path) -> None:
    script = SCRIPTS / "agents_client.py"
    assert json.loads(run([python / "python", script, f"{tap.url}/v1", MODEL], SCRIPTS)) == {
        "asked": ["Oslo", "Oslo"],
        "whole": COLD,
        "streamed": COLD,
        "final": COLD,
    }


def test_openai_agents_for_node_run_whole_and_streamed(
    tap: RequestTap, answer_scripts: Path
) -> None:
    answer = run(["node", "agents_node.mjs", f"{tap.url}/v1", MODEL], answer_scripts)
    assert json.loads(answer.splitlines()[-1]) == {
        "asked": ["Oslo", "Oslo"],
        "whole": COLD,
        "streamed": COLD,
        "final": COLD,
    }


def test_the_ai_sdk_refers_to_the_items_of_its_first_turn(
    tap: RequestTap, answer_scripts: Path
) -> None:
    answer = run(["node", "ai_sdk_responses.mjs", f"{tap.url}/v1", MODEL], answer_scripts)
    assert json.loads(answer.splitlines()[-1]) == {
        "streamed": GREETING,
        "thought": THOUGHT,
        "finish": "stop",
        "second": "See you.",
        "asked": ["Oslo"],
        "called": COLD,
        "object": PERSON,
    }
    second = tap.posts("/v1/responses")[1]
    kinds = [item.get("type") for item in second["input"]]
    assert kinds == [None, "item_reference", "item_reference", None]


def test_langchain_uses_tools_and_structures_by_responses(tap: RequestTap, python: Path) -> None:
    script = SCRIPTS / "langchain_responses.py"
    assert json.loads(run([python / "python", script, f"{tap.url}/v1", MODEL], SCRIPTS)) == {
        "calls": [["get_weather", {"city": "Oslo"}]],
        "text": COLD,
        "structure": PERSON,
        "streamed": [GREETING, [["get_weather", {"city": "Oslo"}]]],
    }


def test_opencode_with_openais_provider_finishes_its_task(
    tap: RequestTap, served: tuple[str, Path], chat_packages: Path, tmp_path: Path
) -> None:
    folder = served[1]
    (folder / "notes.txt").write_text("helo world\n")
    (folder / "done.txt").unlink(missing_ok=True)
    provider = {
        "npm": "@ai-sdk/openai",
        "options": {"baseURL": f"{tap.url}/v1", "apiKey": "none"},
        "models": {MODEL: {"name": "echo", "limit": {"context": 65536, "output": 4096}}},
    }
    settings = {"provider": {"horde": provider}, "model": f"horde/{MODEL}"}
    (folder / "opencode.json").write_text(json.dumps(settings))
    program = chat_packages / "node_modules" / ".bin" / "opencode"
    answer = run(
        [program, "run", "--title", "t", "fix the typo in notes.txt"],
        folder,
        HOME=str(tmp_path),
        **OPENCODE,
    )
    assert "Done: it says hello world now." in answer
    assert (folder / "notes.txt").read_text() == "hello world\n"
    assert (folder / "done.txt").is_file()
    assert len(tap.posts("/v1/responses")) >= 4


def test_answers_fit_the_specification_of_openresponses(tap: RequestTap, python: Path) -> None:
    """The cases of its compliance tests, and two more for streams."""
    script = SCRIPTS / "open_responses.py"
    assert json.loads(run([python / "python", script, f"{tap.url}/v1", MODEL], SCRIPTS)) == {
        "basic": [GREETING],
        "streaming": [GREETING],
        "system": [GREETING],
        "tools": ["get_weather"],
        "streamed tools": ["get_weather"],
        "thoughts": [GREETING],
        "image": [GREETING],
        "turns": ["See you."],
    }


def codex(packages: Path, url: str, model: str, task: str, folder: Path, home: Path) -> str:
    """The last message of Codex, whose task is in the folder."""
    (folder / "done.txt").unlink(missing_ok=True)
    (home / ".codex").mkdir()
    (home / ".codex" / "config.toml").write_text(
        f'model = "{model}"\nmodel_provider = "horde"\n'
        f'[model_providers.horde]\nname = "AI Horde"\nbase_url = "{url}/v1"\n'
        'wire_api = "responses"\n'
    )
    last = home / "last.txt"
    program = packages / "node_modules" / ".bin" / "codex"
    options = ["--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox"]
    run(
        [program, "exec", *options, "--output-last-message", last, task],
        folder,
        HOME=str(home),
        CODEX_HOME=str(home / ".codex"),
    )
    return last.read_text()


@pytest.mark.parametrize(
    ("word", "model", "task", "turns"),
    [
        # A name that it does not know: functions only, so that it patches in the shell.
        ("shell", MODEL, "correct the notes in notes.txt", 4),
        # A custom tool apply_patch with a grammar.
        ("patch", "gpt-5.5", "correct the notes in notes.txt", 4),
        # No tools in the request, but an item with a custom tool for programs.
        ("script", "gpt-6-sol", "mend the notes in notes.txt", 3),
    ],
    ids=["shell", "patch", "script"],
)
def test_codex_runs_commands_patches_and_finishes(
    word: str,
    model: str,
    task: str,
    turns: int,
    tap: RequestTap,
    served: tuple[str, Path],
    answer_packages: Path,
    tmp_path: Path,
) -> None:
    (served[1] / "notes.txt").write_text(f"helo {word}\n")
    answer = codex(answer_packages, tap.url, model, task, served[1], tmp_path)
    assert answer == "Done: it is spelt right now."
    assert (served[1] / "notes.txt").read_text() == f"hello {word}\n"
    assert (served[1] / "done.txt").is_file()
    # One request a turn: nothing was sent again.
    assert len(tap.posts("/v1/responses")) == turns
