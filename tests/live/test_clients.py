"""Real clients against the proxy, with a worker that follows a script.

Their packages are installed once, into a folder of the user's cache.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pydantic
import pytest
import requests

from tests.live.processes import Processes, until

HERE = Path(__file__).parent / "clients"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "horde-proxy-tests"
NODE_PACKAGES = (
    "opencode-ai@1.18",
    "openai@6",
    "ai@6",
    "@ai-sdk/openai-compatible@2",
    "zod@4",
)
PYTHON_PACKAGES = ("langchain-openai~=1.0", "llm~=0.27")
MODEL = "horde-proxy/echo"
PERSON = '{"name": "Ann", "age": 3}'
OPENCODE = {
    "OPENCODE_DISABLE_MODELS_FETCH": "1",
    "OPENCODE_DISABLE_AUTOUPDATE": "1",
    "OPENCODE_DISABLE_LSP_DOWNLOAD": "1",
    "OPENCODE_DISABLE_DEFAULT_PLUGINS": "1",
}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def call(name: str, **arguments: Any) -> str:
    body = json.dumps({"name": name, "arguments": arguments})
    return f"<tool_call>\n{body}\n</tool_call>"


def scenario(folder: Path) -> list[dict[str, str]]:
    """What the scripted model says to what it is told last."""
    notes = str(folder / "notes.txt")
    return [
        {"when": "fix the typo", "say": "I read it first.\n" + call("read", filePath=notes)},
        {
            "when": "<tool_response>.*helo world",
            "say": call("edit", filePath=notes, oldString="helo", newString="hello"),
        },
        {
            "when": "<tool_response>.*(applied|success)",
            "say": call(
                "bash", command="cat notes.txt && touch done.txt", description="Show the file"
            ),
        },
        {"when": "<tool_response>.*hello world", "say": "Done: it says hello world now."},
        {"when": "<tool_response>.*cold in Oslo", "say": "It is cold in Oslo."},
        {"when": "weather in Oslo", "say": call("get_weather", city="Oslo")},
        {"when": "Invent a person", "say": PERSON},
        {"when": "hello", "say": "Hello, how can I help?"},
    ]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The proxy's URL, and the folder that the script is about."""
    yield from serve_script(tmp_path_factory)


@pytest.fixture
def served_small(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[tuple[str, Path]]:
    """The same with a worker whose context has the parameter's tokens."""
    yield from serve_script(tmp_path_factory, "--max-context-length", str(request.param))


def serve_script(
    tmp_path_factory: pytest.TempPathFactory, *options: str
) -> Iterator[tuple[str, Path]]:
    """A proxy with a worker that follows the script, and the folder that the script is about."""
    folder = tmp_path_factory.mktemp("project")
    script = tmp_path_factory.mktemp("scenario") / "scenario.json"
    script.write_text(json.dumps(scenario(folder)))
    processes = Processes()
    url = processes.serve_horde()
    follow = ["--backend", "echo", "--idle", "0.05", "--scenario", str(script)]
    processes.start("worker", "--horde", url, *follow, *options)
    until(lambda: MODEL in requests.get(f"{url}/v1/models", timeout=60).text)
    yield url, folder
    processes.end()


@pytest.fixture(scope="module")
def node() -> Path:
    """The folder with the packages for Node."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    folder = CACHE / "node"
    if not (folder / "node_modules" / "opencode-ai").is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "package.json").write_text('{"private": true, "type": "module"}')
        done = subprocess.run(
            ["npm", "install", "--no-audit", "--no-fund", *NODE_PACKAGES],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=400,
        )
        if done.returncode:
            pytest.skip("the npm registry cannot be reached")
    for script in HERE.glob("*.mjs"):
        shutil.copy(script, folder)
    return folder


@pytest.fixture(scope="module")
def python() -> Path:
    """A Python of its own, with the other Python clients."""
    folder = CACHE / "python"
    if not (folder / "bin" / "llm").is_file():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, timeout=120)
        done = subprocess.run(
            [str(folder / "bin" / "pip"), "install", "-q", *PYTHON_PACKAGES],
            capture_output=True,
            text=True,
            timeout=400,
        )
        if done.returncode:
            shutil.rmtree(folder)
            pytest.skip("PyPI cannot be reached")
    return folder / "bin"


def run(command: list[str | Path], cwd: Path, **environ: str) -> str:
    done = subprocess.run(
        [str(each) for each in command],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PWD": str(cwd), **environ},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def opencode(served: tuple[str, Path], node: Path, tmp_path: Path) -> Callable[[str], str]:
    """Runs opencode in the project's folder, with the configuration that the proxy gives."""
    return configured(*served, node, tmp_path)


def configured(
    url: str, folder: Path, node: Path, home: Path, *options: str
) -> Callable[[str], str]:
    (folder / "notes.txt").write_text("helo world\n")
    for name in ("done.txt", "opencode.json"):
        (folder / name).unlink(missing_ok=True)
    made = [sys.executable, "-m", "horde_proxy", "opencode", "--once", "--url", url, *options]
    run([*made, "--output", folder / "opencode.json"], cwd=folder)

    def opened(prompt: str) -> str:
        program = node / "node_modules" / ".bin" / "opencode"
        return run([program, "run", "--title", "t", prompt], folder, HOME=str(home), **OPENCODE)

    return opened


def test_opencode_answers(opencode: Any) -> None:
    assert opencode("hello").strip() == "Hello, how can I help?"


def test_opencode_reads_edits_runs_and_finishes(opencode: Any, served: tuple[str, Path]) -> None:
    said = opencode("fix the typo in notes.txt")
    assert "Done: it says hello world now." in said
    assert (served[1] / "notes.txt").read_text() == "hello world\n"
    assert (served[1] / "done.txt").is_file()


@pytest.mark.parametrize("served_small", [8192], indirect=True)
def test_opencode_finishes_its_task_on_a_worker_of_8192_tokens(
    served_small: tuple[str, Path], node: Path, tmp_path: Path
) -> None:
    """Its first request has 7,500 tokens, so that it needs the context diet."""
    url, folder = served_small
    said = configured(url, folder, node, tmp_path)("fix the typo in notes.txt")
    assert "Done: it says hello world now." in said
    assert (folder / "notes.txt").read_text() == "hello world\n"
    assert (folder / "done.txt").is_file()
    # One request a turn: none was made to compact the chat, or made again.
    assert count_chats(url) == 4


@pytest.mark.parametrize("served_small", [2048], indirect=True)
def test_opencode_asks_a_model_that_is_too_small_once_and_says_why(
    served_small: tuple[str, Path], node: Path, tmp_path: Path
) -> None:
    """It compacted its chat and asked again, without end."""
    url, folder = served_small
    with pytest.raises(AssertionError, match="The model is too small for this request"):
        configured(url, folder, node, tmp_path, "--min-context", "0")("fix the typo in notes.txt")
    assert count_chats(url) == 1


def count_chats(url: str) -> int:
    """The chats that the proxy has answered or refused."""
    lines = requests.get(f"{url}/metrics", timeout=60).text.splitlines()
    chats = [
        line
        for line in lines
        if line.startswith("horde_proxy_requests_total{") and "chat/completions" in line
    ]
    return round(sum(float(line.rpartition(" ")[2]) for line in chats))


def test_openai_for_node_runs_tools_parses_and_streams(
    served: tuple[str, Path], node: Path
) -> None:
    found = json.loads(run(["node", "openai_node.mjs", f"{served[0]}/v1", MODEL], node))
    assert found == {
        "asked": ["Oslo"],
        "final": "It is cold in Oslo.",
        "person": {"name": "Ann", "age": 3},
        "streamed": "Hello, how can I help?",
        "finish": "stop",
    }


def test_the_ai_sdk_calls_tools_streams_and_makes_objects(
    served: tuple[str, Path], node: Path
) -> None:
    said = run(["node", "ai_sdk.mjs", f"{served[0]}/v1", MODEL], node)
    found = json.loads(said.splitlines()[-1])
    assert found == {
        "asked": ["Oslo"],
        "text": "It is cold in Oslo.",
        "steps": 2,
        "streamed": "Hello, how can I help?",
        "finish": "stop",
        "object": {"name": "Ann", "age": 3},
    }


def test_langchain_binds_tools_and_gives_structures(served: tuple[str, Path], python: Path) -> None:
    script = HERE / "langchain_client.py"
    found = json.loads(run([python / "python", script, f"{served[0]}/v1", MODEL], HERE))
    assert found == {
        "calls": [["get_weather", {"city": "Oslo"}]],
        "by_schema": {"name": "Ann", "age": 3},
        "by_call": {"name": "Ann", "age": 3},
        "streamed": "Hello, how can I help?",
    }


@pytest.fixture
def llm(served: tuple[str, Path], python: Path, tmp_path: Path) -> Callable[..., str]:
    base = f"{served[0]}/v1"
    (tmp_path / "extra-openai-models.yaml").write_text(
        f"- {{model_id: horde, model_name: {MODEL}, api_base: '{base}', supports_tools: true, "
        f"supports_schema: true, api_key_name: horde}}\n"
        f"- {{model_id: raw, model_name: {MODEL}, api_base: '{base}', completion: true, "
        f"api_key_name: horde}}\n"
    )
    (tmp_path / "keys.json").write_text('{"horde": "none"}')
    return lambda *arguments: run(
        [python / "llm", *arguments], tmp_path, LLM_USER_PATH=str(tmp_path)
    ).strip()


def test_llm_chats_completes_and_uses_schemas_and_tools(llm: Any) -> None:
    assert llm("-m", "horde", "hello") == "Hello, how can I help?"
    assert llm("-m", "raw", "Once upon a time") == "Once upon a time"
    assert json.loads(llm("-m", "horde", "--schema", "name, age int", "Invent a person.")) == {
        "name": "Ann",
        "age": 3,
    }
    function = "def get_weather(city: str) -> str:\n    return 'cold in ' + city"
    said = llm("-m", "horde", "--functions", function, "What is the weather in Oslo?")
    assert said == "It is cold in Oslo."


class Person(pydantic.BaseModel):
    name: str
    age: int


def test_openai_for_python_parses_and_streams_calls(served: tuple[str, Path]) -> None:
    tool = openai.pydantic_function_tool(pydantic.create_model("get_weather", city=(str, ...)))
    with openai.OpenAI(base_url=f"{served[0]}/v1", api_key="none") as client:
        parsed = client.chat.completions.parse(
            model=MODEL,
            messages=[{"role": "user", "content": "Invent a person."}],
            response_format=Person,
        )
        assert parsed.choices[0].message.parsed == Person(name="Ann", age=3)
        with client.chat.completions.stream(
            model=MODEL,
            messages=[{"role": "user", "content": "What is the weather in Oslo?"}],
            tools=[tool],
        ) as stream:
            kinds = {event.type for event in stream}
            [called] = stream.get_final_completion().choices[0].message.tool_calls or []
    assert "tool_calls.function.arguments.done" in kinds
    assert json.loads(called.function.arguments) == {"city": "Oslo"}
