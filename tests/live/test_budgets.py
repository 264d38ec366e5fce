"""What one request may cost the process that serves it: CPU time and memory, seen from outside.

Each budget of docs/security.md that a request can reach is met at its limit and beyond. Seconds are
CPU time; a machine that is slower than the one on which the bounds were set has as much more.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import io
import json
import struct
import subprocess
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
import requests
from PIL import Image

from tests.live.processes import KEY, Processes, until

MODEL = "horde-proxy/echo"
CLIENT = "client-key-0123456789"
STRANGER = (0.5, 50)
"""CPU seconds and megabytes of a request whose sender has no key."""
OWNER = (3.0, 300)
"""The same for the owner of a key."""
_TICK = 0.01
"""Seconds of a clock tick in /proc: sysconf(_SC_CLK_TCK) is 100 on all Linux machines."""
_REFERENCE_SECONDS = 0.1
"""CPU time of `_work` on the machine on which the bounds were set."""
_LONGEST_PAUSE = 0.5
"""Seconds for which one request may hold up all others, on that machine."""


class Served(NamedTuple):
    url: str
    process: int


class Case(NamedTuple):
    """One request. `body` makes it when it is needed, for some are large."""

    path: str
    body: Callable[[], bytes]
    headers: Mapping[str, str] = MappingProxyType({})


def chat(**fields: Any) -> Callable[[], bytes]:
    return lambda: json.dumps(
        {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], **fields}
    ).encode()


def doubled(keyword: str) -> dict[str, Any]:
    definitions: dict[str, Any] = {
        f"d{level}": {keyword: [{"$ref": f"#/$defs/d{level + 1}"}] * 2} for level in range(20)
    }
    definitions["d20"] = {"type": "integer"}
    return {"$defs": definitions, "$ref": "#/$defs/d0"}


def schema(value: dict[str, Any]) -> Callable[[], bytes]:
    format = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": value}}
    return chat(response_format=format)


def tool(name: str, parameters: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


def form(content: bytes) -> Callable[[], bytes]:
    head = b'--XX\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    return lambda: head + content + b"\r\n--XX--\r\n"


_FORM = {"Content-Type": "multipart/form-data; boundary=XX"}
_WRONG = {"apikey": "wrong-key-0123456789", "Authorization": "Bearer wrong-key-0123456789"}
_POP, _SUBMIT = "/api/v2/generate/text/pop", "/api/v2/generate/text/async"
_CHAT, _COMPLETIONS = "/v1/chat/completions", "/v1/completions"

STRANGERS = {
    "a pop with four million models": Case(
        _POP, lambda: b'{"models": [' + b"1," * 4_000_000 + b"1]}"
    ),
    "a pop with a wrong key": Case(
        _POP, lambda: b'{"models": [' + b"1," * 4_000_000 + b"1]}", _WRONG
    ),
    "a submit with many params": Case(
        _SUBMIT, lambda: json.dumps({"params": {str(n): n for n in range(500_000)}}).encode()
    ),
    "a chat with many keys": Case(
        _CHAT, lambda: json.dumps({str(n): n for n in range(1_000_000)}).encode(), _WRONG
    ),
    "a chat that unpacks to a gigabyte": Case(
        _CHAT, lambda: gzip.compress(b" " * 1_000_000_000, 1), {"Content-Encoding": "gzip"}
    ),
    "a login that unpacks to a gigabyte": Case(
        "/page/login",
        lambda: gzip.compress(b"a=" + b"b" * 1_000_000_000, 1),
        {"Content-Encoding": "gzip", "Content-Type": "application/x-www-form-urlencoded"},
    ),
    "a form of line ends": Case("/v1/files", form(b"\r\n" * 10_000_000), _FORM),
    "brackets": Case(_CHAT, lambda: b"[" * 4_000_000),
}
OWNERS = {
    "many keys": Case(_CHAT, lambda: json.dumps({str(n): n for n in range(2_300_000)}).encode()),
    "brackets": Case(_CHAT, lambda: b"[" * 4_000_000),
    "a message of twenty megabytes": Case(
        _CHAT, chat(messages=[{"role": "user", "content": "word " * 4_000_000}])
    ),
    "a message of one long word": Case(
        _CHAT, chat(messages=[{"role": "user", "content": "a" * 20_000_000}])
    ),
    "a message of many parts": Case(
        _CHAT,
        chat(messages=[{"role": "user", "content": [{"type": "text", "text": "a"}] * 900}] * 90),
    ),
    "a prompt of twenty megabytes": Case(
        _COMPLETIONS,
        lambda: json.dumps({"model": MODEL, "prompt": "word " * 4_000_000}).encode(),
    ),
    "a thousand prompts": Case(
        _COMPLETIONS, lambda: json.dumps({"model": MODEL, "prompt": ["a"] * 1000}).encode()
    ),
    "stops": Case(
        _CHAT, chat(stop=["a" * 99] * 100, messages=[{"role": "user", "content": "a" * 9000}])
    ),
    "an expensive schema": Case(_CHAT, schema(doubled("anyOf"))),
    "a schema of many parts": Case(
        _CHAT, schema({"allOf": [{"anyOf": [{"minLength": n}, {}]} for n in range(9_000)]})
    ),
    "a thousand tools": Case(
        _CHAT,
        chat(tools=[tool(f"t{n}", doubled("anyOf")) for n in range(900)], tool_choice="required"),
    ),
    "a regular expression": Case(_CHAT, chat(model="~" + "(.*.*)*" * 25 + "@")),
    "a back-reference": Case(_CHAT, chat(model=r"~(a+)+\1+$")),
    "a glob": Case(_CHAT, chat(model="*a" * 400 + "b")),
    "a list of globs": Case(_CHAT, chat(model=",".join(["*a*a*a*a*b"] * 90))),
    "a submit of many models": Case(
        _SUBMIT,
        lambda: json.dumps({"prompt": "x", "models": ["m"] * 200_000}).encode(),
        {"apikey": KEY},
    ),
    "a pop of many models": Case(
        _POP, lambda: json.dumps({"name": "w", "models": ["m"] * 200_000}).encode(), {"apikey": KEY}
    ),
}


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    processes = Processes()
    try:
        url, master = processes.serve(
            private_horde__enabled="true",
            private_horde__api_key=KEY,
            access__mode="keys",
            access__keys=json.dumps({"client": CLIENT}),
        )
        work(processes, url)
        yield Served(url, worker_of(master.pid))
    finally:
        processes.end()


def worker_of(master: int) -> int:
    """The id of the process that serves, which is its master's only child."""
    return int(Path(f"/proc/{master}/task/{master}/children").read_text().split()[0])


def work(processes: Processes, url: str) -> subprocess.Popen[bytes]:
    process = processes.start("worker", "--horde", url, "--backend", "echo", "--idle", "0.05")
    headers = {"Authorization": f"Bearer {CLIENT}"}
    until(lambda: "echo" in requests.get(f"{url}/v1/models", headers=headers, timeout=60).text)
    return process


@pytest.mark.parametrize("name", list(STRANGERS))
def test_a_stranger_costs_little(served: Served, name: str) -> None:
    case = STRANGERS[name]
    cost, status = measured(served, case, case.headers)
    assert 400 <= status < 500
    within(cost, STRANGER)


@pytest.mark.parametrize("name", list(OWNERS))
def test_a_hostile_request_with_a_key_stays_within_the_budget(served: Served, name: str) -> None:
    case = OWNERS[name]
    cost, status = measured(served, case, {"Authorization": f"Bearer {CLIENT}", **case.headers})
    assert status < 500 or status in (502, 503, 504), status
    within(cost, OWNER)


def png_part(name: bytes, content: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(name + content))
    return struct.pack(">I", len(content)) + name + content + checksum


def png(width: int, height: int, *parts: bytes) -> bytes:
    """A PNG of a few bytes, whose header claims a size."""
    header = png_part(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(parts) + png_part(b"IEND", b"")


def of_scans() -> bytes:
    """A progressive JPEG of 8K, whose last scan is there sixty times more."""
    content = io.BytesIO()
    Image.new("RGB", (7680, 4320)).save(content, "JPEG", progressive=True)
    data = content.getvalue()
    return data[:-2] + data[data.rfind(b"\xff\xda") : -2] * 60 + data[-2:]


def webp() -> bytes:
    """A WebP of 40 bytes with 33 million pixels."""
    content = io.BytesIO()
    Image.new("RGB", (7600, 4300)).save(content, "WEBP", lossless=True, method=0)
    return content.getvalue()


_FRAME = struct.pack("<HHHH", 0, 0, 65_535, 65_535)
BOMBS: dict[str, Callable[[], bytes]] = {
    "a PNG": lambda: png(60_000, 60_000),
    "a PNG with a text of a gigabyte": lambda: png(
        8, 8, png_part(b"zTXt", b"x\0\0" + zlib.compress(bytes(1_000_000_000), 1))
    ),
    "a JPEG of many scans": of_scans,
    "a WebP": webp,
    "a GIF": lambda: b"GIF89a\x40\0\x40\0\0\0\0," + _FRAME + b"\0\x08\x02\x4c\x01\0;",
}


@pytest.mark.parametrize("name", list(BOMBS))
def test_an_image_bomb_is_refused_at_once(served: Served, name: str) -> None:
    head = b'--XX\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
    prompt = b'\r\n--XX\r\nContent-Disposition: form-data; name="prompt"\r\n\r\na hat\r\n--XX--\r\n'
    body = head + BOMBS[name]() + prompt
    key = {"Authorization": f"Bearer {CLIENT}"}
    cost, status = measured(served, Case("/v1/images/edits", lambda: body, _FORM), {**_FORM, **key})
    assert status == 400
    within(cost, (0.2, 50))


LONGEST = 33_554_432
"""Bytes of server.max_body."""


def nested(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        value = {"type": "object", "properties": {"a": value}, "required": ["a"]}
    return value


AT_THE_LIMIT = {
    "the longest body": Case(
        _CHAT, chat(messages=[{"role": "user", "content": "word " * (LONGEST // 5 - 100)}])
    ),
    "the longest body, compressed": Case(
        _CHAT,
        lambda: gzip.compress(
            chat(messages=[{"role": "user", "content": "a" * (LONGEST - 200)}])(), 1
        ),
        {"Content-Encoding": "gzip"},
    ),
    "the most values": Case(
        _CHAT, lambda: json.dumps({str(number): number for number in range(249_998)}).encode()
    ),
    "the most messages": Case(
        _CHAT, chat(messages=[{"role": "user", "content": "Hello you"}] * 20_000)
    ),
    "the most parts": Case(
        _CHAT,
        chat(messages=[{"role": "user", "content": [{"type": "text", "text": "a"}] * 1_000}] * 40),
    ),
    "the most stops": Case(_CHAT, chat(stop=[f"stop {number:05}"[:10] for number in range(1_000)])),
    "the most tools": Case(
        _CHAT, chat(tools=[tool(f"t{number}", nested(2)) for number in range(1_000)])
    ),
    "the deepest schema": Case(_CHAT, schema(nested(14))),
    "the largest schema": Case(_CHAT, schema({"enum": list(range(9_990))})),
    "the longest name": Case(_CHAT, chat(model="m" * 1_000)),
    "the longest regular expression": Case(_CHAT, chat(model="~" + "(a|b)*" * 33)),
    "the longest list of them": Case(_CHAT, chat(model=",".join(["~" + "(a|b)*" * 7] * 20))),
    "the most models of a worker": Case(
        _POP,
        lambda: json.dumps({"name": "w", "models": [f"m{n}" for n in range(200)]}).encode(),
        {"apikey": KEY},
    ),
}


@pytest.mark.parametrize("name", list(AT_THE_LIMIT))
def test_a_request_just_below_a_limit_stays_within_the_budget(served: Served, name: str) -> None:
    case = AT_THE_LIMIT[name]
    cost, status = measured(served, case, {"Authorization": f"Bearer {CLIENT}", **case.headers})
    assert status not in (413, 431, 500), status
    within(cost, OWNER)


FORMS = {
    "line ends": form(b"\r\n" * 10_000_000),
    "ends of lines": form(b"\r" * 20_000_000),
    "beginnings of a boundary": form(b"\r\n--X" * 4_000_000),
    "line ends before the first part": lambda: b"\r\n" * 10_000_000,
    "a header without an end": lambda: b"--XX\r\nA: b" + b"\r\n " * 6_000_000,
    "spaces behind a boundary": lambda: form(b"")()[:-6] + b" " * 20_000_000,
    "the most parts": lambda: form(b"")()[:-6] * 999 + form(b"")(),
    "many small parts": lambda: form(b"")()[:-6] * 200_000,
}


@pytest.mark.parametrize("name", list(FORMS))
def test_a_hostile_form_stays_within_the_budget(processes: Processes, name: str) -> None:
    url, master = processes.serve(endpoints='[{"url": "http://127.0.0.1:9"}]')
    served = Served(url, worker_of(master.pid))
    cost, status = measured(served, Case("/v1/files", FORMS[name], _FORM), _FORM)
    assert 400 <= status < 504
    within(cost, OWNER)


MEGABYTE = 1_000_000
HORDE = "/api/v2"
SENT = {
    f"{HORDE}/status/models": ([b"[" + b" " * MEGABYTE, *[b" " * MEGABYTE] * 499], ""),
    f"{HORDE}/workers": ([gzip.compress(b"[" + b" " * 999 * MEGABYTE, 1)], "gzip"),
    f"{HORDE}/stats/text/models": ([b"[" * 10 * MEGABYTE], ""),
    "/v1/models": ([gzip.compress(b"[" + b" " * 999 * MEGABYTE, 1)], "gzip"),
    "/large/v1/models": (
        [json.dumps({"data": [{"id": f"m{n}", "a": "x" * 6_000} for n in range(5_000)]}).encode()],
        "",
    ),
    "/listed/v1/models": ([json.dumps({"data": [{"id": MODEL}]}).encode()], ""),
    "/listed/v1/chat/completions": ([b"{", *[b" " * MEGABYTE] * 299, b"}"], ""),
    "/listed/v1/completions": ([b"[" * 10 * MEGABYTE], ""),
}
"""What the hostile server answers, by path: its pieces and their coding."""


class HostileHandler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        pieces, coding = SENT.get(self.path.partition("?")[0], ([b"{}"], ""))
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        if coding:
            self.send_header("Content-Encoding", coding)
        self.end_headers()
        # Its client may have read enough.
        with contextlib.suppress(OSError):
            for piece in pieces:
                self.wfile.write(piece)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def log_message(self, *arguments: Any) -> None:
        """Nothing."""


@pytest.fixture
def hostile() -> Iterator[str]:
    """The URL of a server that answers whatever fills a memory."""
    with ThreadingHTTPServer(("127.0.0.1", 0), HostileHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("path", ["/v1/models", "/v1/horde/models", "/v1/opencode.json"])
def test_a_hostile_answer_of_a_horde_stays_within_the_budget(
    processes: Processes, hostile: str, path: str
) -> None:
    url, master = processes.serve(horde__url=hostile)
    cost, _ = measured(Served(url, worker_of(master.pid)), Case(path, bytes), {}, "GET")
    within(cost, OWNER)


def test_a_hostile_list_of_models_stays_within_the_budget(
    processes: Processes, hostile: str
) -> None:
    url, master = processes.serve(endpoints=json.dumps([{"url": hostile}]))
    served = Served(url, worker_of(master.pid))
    cost, _ = measured(served, Case("/v1/models", bytes), {}, "GET")
    within(cost, OWNER)


def test_the_longest_list_of_models_stays_within_the_budget(
    processes: Processes, hostile: str
) -> None:
    url, master = processes.serve(endpoints=json.dumps([{"url": f"{hostile}/large/v1"}]))
    served = Served(url, worker_of(master.pid))
    cost, status = measured(served, Case("/v1/models", bytes), {}, "GET")
    assert status == 200
    within(cost, OWNER)


@pytest.mark.parametrize("path", [_CHAT, _COMPLETIONS])
def test_a_hostile_answer_of_a_server_stays_within_the_budget(
    processes: Processes, hostile: str, path: str
) -> None:
    url, master = processes.serve(endpoints=json.dumps([{"url": f"{hostile}/listed/v1"}]))
    served = Served(url, worker_of(master.pid))
    cost, status = measured(served, Case(path, chat(prompt="Hi")), {})
    assert status == 200
    within(cost, OWNER)


def picture() -> str:
    """A data URL of almost 30 MB."""
    return "data:image/png;base64," + base64.b64encode(bytes(range(250)) * 88_000).decode()


def upload(field: str, **texts: str) -> Callable[[], bytes]:
    head = "".join(
        f'--XX\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{text}\r\n'
        for name, text in texts.items()
    )
    head += f'--XX\r\nContent-Disposition: form-data; name="{field}"; filename="a"\r\n\r\n'
    return lambda: head.encode() + bytes(30 * MEGABYTE) + b"\r\n--XX--\r\n"


def words() -> str:
    return "word " * (6 * MEGABYTE)


def document(**fields: Callable[[], Any]) -> Callable[[], bytes]:
    return lambda: json.dumps({name: make() for name, make in fields.items()}).encode()


def user(**fields: Callable[[], Any]) -> Callable[[], Any]:
    return lambda: [{"role": "user", **{name: make() for name, make in fields.items()}}]


def parts() -> list[dict[str, Any]]:
    return [{"type": "image_url", "image_url": {"url": picture()}}]


_NAMED = {"model": lambda: MODEL}
LARGE = {
    "a chat": Case(_CHAT, document(**_NAMED, messages=user(content=words))),
    "a chat with a picture": Case(_CHAT, document(**_NAMED, messages=user(content=parts))),
    "a chat for a model that is not there": Case(
        _CHAT, document(model=lambda: "none", messages=user(content=words))
    ),
    "a completion": Case(_COMPLETIONS, document(**_NAMED, prompt=words)),
    "a response": Case("/v1/responses", document(**_NAMED, input=words, store=lambda: False)),
    "messages": Case(
        "/v1/messages",
        document(**_NAMED, max_tokens=lambda: 9, messages=user(content=words)),
    ),
    "a picture that Ollama's chat refuses": Case(
        "/api/chat",
        document(**_NAMED, stream=bool, messages=user(images=lambda: [picture()[22:]])),
    ),
    "embeddings": Case("/v1/embeddings", document(**_NAMED, input=words)),
    "audio": Case("/v1/audio/transcriptions", upload("file", model=MODEL), _FORM),
    "a file": Case("/v1/files", upload("file", purpose="user_data"), _FORM),
    "a picture to edit": Case("/v1/images/edits", upload("image", prompt="a hat"), _FORM),
    "a picture for a horde": Case(
        "/api/v2/generate/async",
        document(prompt=lambda: "a hat", source_image=lambda: picture()[22:]),
        {"apikey": KEY},
    ),
}
"""Bodies of almost 30 MB on the routes that take them."""
_KEPT = 20
"""Megabytes that may stay of four such bodies; without allocator.py, 150 to 240 did."""


@pytest.mark.timeout(400)
def test_large_bodies_leave_no_memory_behind(processes: Processes, swallowing: str) -> None:
    url, master = processes.serve(
        endpoints=json.dumps([{"url": f"{swallowing}/v1"}]),
        private_horde__enabled="true",
        private_horde__api_key=KEY,
        access__mode="open",
    )
    served, kept = worker_of(master.pid), {}
    assert requests.get(f"{url}/v1/models", timeout=60).ok
    for name, case in LARGE.items():
        before, body = kilobytes(served, "VmRSS"), case.body()
        headers = {"Content-Type": "application/json", **case.headers}
        send("POST", url + case.path, body, headers)
        with ThreadPoolExecutor(3) as pool:
            for _ in range(3):
                pool.submit(send, "POST", url + case.path, body, headers)
        kept[name] = memory_kept(served, before)
    assert {name: size for name, size in kept.items() if size > _KEPT} == {}


def memory_kept(process: int, before: int) -> int:
    """Megabytes beyond `before`, once what follows an answer is done."""
    for _ in range(40):
        kept = (kilobytes(process, "VmRSS") - before) // 1000
        if kept <= _KEPT:
            break
        time.sleep(0.25)
    return kept


class SwallowingHandler(BaseHTTPRequestHandler):
    """A server that reads what it is sent, piece by piece, and answers each call with a chat."""

    def do_GET(self) -> None:
        self.answer({"data": [{"id": MODEL}]})

    def do_POST(self) -> None:
        left = int(self.headers["Content-Length"])
        while left:
            left -= len(self.rfile.read(min(left, 65_536)))
        message = {"role": "assistant", "content": "Hello"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        self.answer({"object": "chat.completion", "model": MODEL, "choices": [choice]})

    def answer(self, content: dict[str, Any]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())

    def log_message(self, *arguments: Any) -> None:
        """Nothing."""


@pytest.fixture
def swallowing() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), SwallowingHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class Cost(NamedTuple):
    seconds: float
    megabytes: float
    health: float


def within(cost: Cost, bounds: tuple[float, int]) -> None:
    seconds, megabytes = bounds
    speed = speed_of_this_machine()
    assert cost.megabytes <= megabytes, cost
    assert cost.seconds <= seconds * speed, (cost, speed)
    # /health/live never waits for more than a slice of the interpreter.
    assert cost.health <= _LONGEST_PAUSE * speed + 0.5, (cost, speed)


def measured(
    served: Served, case: Case, headers: Mapping[str, str], method: str = "POST"
) -> tuple[Cost, int]:
    """The cost of one request to the process that serves it, and the status of the answer.

    What else runs on the machine may hold /health/live up, too, so that the best of three counts
    there. Memory and CPU are those of the first request: later ones find a heap that has grown.
    """
    cost, status = measured_once(served, case, headers, method)
    for _ in range(2):
        if cost.health > _LONGEST_PAUSE:
            again, _ = measured_once(served, case, headers, method)
            cost = cost._replace(health=min(cost.health, again.health))
    return cost, status


def measured_once(
    served: Served, case: Case, headers: Mapping[str, str], method: str
) -> tuple[Cost, int]:
    body, kind = case.body(), {"Content-Type": "application/json"}
    Path(f"/proc/{served.process}/clear_refs").write_text("5")  # the peak begins anew
    memory, seconds = kilobytes(served.process, "VmRSS"), cpu_seconds(served.process)
    with watching_health(served.url) as health:
        status = send(method, f"{served.url}{case.path}", body, {**kind, **headers})
    peak = kilobytes(served.process, "VmHWM")
    cost = Cost(cpu_seconds(served.process) - seconds, (peak - memory) / 1000, max(health))
    return cost, status


def send(method: str, url: str, body: bytes, headers: dict[str, str]) -> int:
    with requests.request(
        method, url, data=body, headers=headers, timeout=120, stream=True
    ) as answer:
        # A break in the middle of what is passed on is an end like others here.
        with contextlib.suppress(requests.RequestException):
            for _ in answer.iter_content(MEGABYTE):
                pass
        return answer.status_code


@contextmanager
def watching_health(url: str) -> Iterator[list[float]]:
    """The seconds that /health/live took while the block ran; at least one."""
    seconds: list[float] = []
    has_ended = threading.Event()

    def watch() -> None:
        while not seconds or not has_ended.is_set():
            began = time.monotonic()
            assert requests.get(f"{url}/health/live", timeout=60).ok
            seconds.append(time.monotonic() - began)
            has_ended.wait(0.05)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seconds
    finally:
        has_ended.set()
        thread.join()


def kilobytes(process: int, name: str) -> int:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def cpu_seconds(process: int) -> float:
    """User and system time; see proc(5) for the fields after the name in brackets."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK


def speed_of_this_machine() -> float:
    """How many times as long as the reference machine this one takes, 1 at least."""
    return max(min(_work() for _ in range(3)) / _REFERENCE_SECONDS, 1.0)


def _work() -> float:
    began = time.process_time()
    json.loads(json.dumps([{"a": number, "b": str(number)} for number in range(60_000)]))
    return time.process_time() - began
