"""A model that leads each client through its task, by what its prompt says last.

The rules are those of `horde-proxy worker --backend echo --scenario`. They do not depend on the
client's API: a call is text that the model writes, as real models do.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

MODEL = "horde-proxy/echo"
CODEX_MODELS = ("gpt-5.5", "gpt-6-sol")
"""Two models that Codex knows, to which it offers other tools than to others."""
GREETING = "Hello, how can I help?"
THOUGHT = "They greet me."
PERSON = {"name": "Ann", "age": 3}
COLD = "It is cold in Oslo."


def call(name: str, **arguments: Any) -> str:
    """A tool call as the model writes it."""
    body = json.dumps({"name": name, "arguments": arguments})
    return f"<tool_call>\n{body}\n</tool_call>"


def scenario(folder: Path) -> list[dict[str, str]]:
    """What the model says; the agents' tasks are about `notes.txt` in the folder."""
    return [*_codex(), *_claude_code(folder), *_opencode(folder), *_libraries()]


def _opencode(folder: Path) -> list[dict[str, str]]:
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
    ]


def _codex() -> list[dict[str, str]]:
    """Codex has a tool apply_patch for models that it knows, else only the shell's command.

    The newest ones write programs that call tools.
    """

    def patch(word: str) -> str:
        return (
            f"*** Begin Patch\n*** Update File: notes.txt\n@@\n-helo {word}\n+hello {word}\n"
            "*** End Patch\n"
        )

    look = 'text(await tools.exec_command({cmd: "cat notes.txt && touch done.txt"}))'
    in_shell = f"apply_patch <<'EOF'\n{patch('shell')}EOF\n"
    return [
        {
            "when": "correct the notes",
            "say": "I look.\n" + call("exec_command", cmd="cat notes.txt"),
        },
        {"when": "<tool_response>.*helo shell", "say": call("exec_command", cmd=in_shell)},
        {"when": "<tool_response>.*helo patch", "say": call("apply_patch", input=patch("patch"))},
        {
            "when": "<tool_response>.*Success. Updated",
            "say": call("exec_command", cmd="cat notes.txt && touch done.txt"),
        },
        {"when": "mend the notes", "say": call("exec", input=look)},
        {
            "when": "<tool_response>.*helo script",
            "say": call(
                "exec", input=f"await tools.apply_patch({json.dumps(patch('script'))});\n{look}"
            ),
        },
        {
            "when": "<tool_response>.*hello (shell|patch|script)",
            "say": "Done: it is spelt right now.",
        },
    ]


def _claude_code(folder: Path) -> list[dict[str, str]]:
    notes = str(folder / "notes.txt")
    done = str(folder / "done.txt")
    return [
        {"when": "repair the spelling", "say": "I read it.\n" + call("Read", file_path=notes)},
        {
            "when": "<tool_response>.*helo claude",
            "say": call("Edit", file_path=notes, old_string="helo", new_string="hello"),
        },
        {
            "when": "<tool_response>.*has been updated",
            "say": call("Bash", command="cat notes.txt", description="Show the file"),
        },
        {
            "when": "<tool_response>.*hello claude",
            "say": call("Write", file_path=done, content="x"),
        },
        {"when": "<tool_response>.*created successfully", "say": "Done: the spelling is right."},
    ]


def _libraries() -> list[dict[str, str]]:
    return [
        {"when": "<tool_response>.*cold in Oslo", "say": COLD},
        {"when": "weather in Oslo", "say": call("get_weather", city="Oslo")},
        {"when": "Invent a person", "say": json.dumps(PERSON)},
        {"when": "think and greet", "say": f"<think>{THOUGHT}</think>{GREETING}"},
        {"when": "hello", "say": GREETING},
        {"when": "bye", "say": "See you."},
    ]
