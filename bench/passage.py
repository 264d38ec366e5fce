"""What one request passes: files, classes and functions of the package, and frames while it waits.

Usage: python bench/passage.py [--stack]. It serves a private horde in this process, with a worker
that answers after a second, and needs no network. Prints one line for each kind of request.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from horde_proxy import Config, create_app

KEY = "bench-owner-key"
MODEL = "bench/model"
WORK_SECONDS = 1.5
POP = {
    "name": "bench",
    "models": [MODEL],
    "bridge_agent": "bench:1:http://bench.invalid",
    "nsfw": True,
    "max_length": 512,
    "max_context_length": 8192,
}
QUESTION = [{"role": "user", "content": "What is the weather in Oslo?"}]
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}
NAMED = {"type": "function", "function": {"name": "get_weather"}}
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
REQUESTS: dict[str, tuple[dict[str, Any], str]] = {
    "a chat": ({}, "It is fine."),
    "a stream": ({"stream": True}, "It is fine."),
    "a required call": ({"tools": [TOOL], "tool_choice": NAMED}, CALL),
}


def is_ours(code: CodeType) -> bool:
    return f"{os.sep}horde_proxy{os.sep}" in code.co_filename


class Worker(threading.Thread):
    """Pops each job, waits, and hands in the text that is set."""

    def __init__(self, app: Any) -> None:
        super().__init__(daemon=True)
        self.client, self.text = app.test_client(), ""

    def post(self, path: str, body: object) -> dict[str, Any]:
        answer = self.client.post(
            f"/api/v2/generate/text/{path}", json=body, headers={"apikey": KEY}
        )
        found: dict[str, Any] = answer.get_json()
        return found

    def run(self) -> None:
        while True:
            job = self.post("pop", POP)
            if job.get("id"):
                time.sleep(WORK_SECONDS)
                self.post("submit", {"id": job["id"], "generation": self.text})
            else:
                time.sleep(0.05)


def our_frames(frame: FrameType | None) -> list[CodeType]:
    """The code of our frames on a stack, from the view down."""
    codes = []
    while frame is not None:
        if is_ours(frame.f_code):
            codes.append(frame.f_code)
        frame = frame.f_back
    return codes[::-1]


def measured(app: Any, body: dict[str, Any]) -> tuple[set[CodeType], list[CodeType]]:
    """(code that ran for a request, our frames that were seen most often: those of the wait)."""
    seen: set[CodeType] = set()
    stacks: Counter[tuple[CodeType, ...]] = Counter()

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and is_ours(frame.f_code):
            seen.add(frame.f_code)

    def ask() -> None:
        sys.setprofile(note)
        try:
            answer = app.test_client().post("/v1/chat/completions", json=body)
            assert answer.status_code == 200, answer.get_data(as_text=True)
            answer.get_data()
        finally:
            sys.setprofile(None)

    thread = threading.Thread(target=ask)
    thread.start()
    while thread.is_alive():
        time.sleep(0.02)
        stacks[tuple(our_frames(sys._current_frames().get(thread.ident or 0)))] += 1
    return seen, list(stacks.most_common(1)[0][0])


def classes(codes: set[CodeType]) -> set[str]:
    return {
        f"{code.co_filename}:{code.co_qualname.rpartition('.')[0]}"
        for code in codes
        if "." in code.co_qualname and "<locals>" not in code.co_qualname.rpartition(".")[0]
    }


def report(name: str, seen: set[CodeType], waiting: list[CodeType]) -> None:
    own = {code for code in seen if "private_horde" not in code.co_filename}
    files = {code.co_filename for code in own}
    print(
        f"{name}: {len(files)} files, {len(classes(own))} classes, {len(own)} functions, "
        f"{len(waiting)} frames while it waits"
    )
    if "--stack" in sys.argv:
        for code in waiting:
            print(f"    {Path(code.co_filename).name}:{code.co_qualname}")


def main() -> None:
    settings = Config.model_validate(
        {
            "private_horde": {"enabled": True, "api_key": KEY},
            "access": {"mode": "open"},
            "server": {"loop_limit": 0},
        }
    )
    app = create_app(settings)
    worker = Worker(app)
    worker.start()
    client = app.test_client()
    while MODEL not in json.dumps(client.get("/v1/models").get_json()):
        time.sleep(0.1)
    for name, (extra, text) in REQUESTS.items():
        worker.text = text
        body = {"model": MODEL, "messages": QUESTION, **extra}
        measured(app, body)  # what happens once only is not counted
        report(name, *measured(app, body))


if __name__ == "__main__":
    main()
