"""Debian's Chromium without a window, driven through its debugging pipe: no driver, no package."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser")
_OPTIONS = (
    "--headless=new",
    "--remote-debugging-pipe",
    "--no-first-run",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
    "--no-pings",
    "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
_FIRST_FREE = 20


class Chromium:
    """One browser with one page. `requests` are the URLs it asked for, `console` its complaints."""

    def __init__(self, folder: Path) -> None:
        ours, theirs = _pipe(), _pipe()
        sandbox = ["--no-sandbox"] if os.getuid() == 0 else []
        self._process = subprocess.Popen(
            [str(PROGRAM), *_OPTIONS, *sandbox, f"--user-data-dir={folder}", "about:blank"],
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=(3, 4),
            preexec_fn=lambda: _give_pipes(theirs[0], ours[1]),
        )
        os.close(theirs[0])
        os.close(ours[1])
        self._reading, self._writing = ours[0], theirs[1]
        self._rest, self._last = b"", 0
        self._answers: dict[int, Any] = {}
        self._session: str | None = None
        self.requests: list[str] = []
        self.console: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> Any:
        """What the browser answers; see the Chrome DevTools Protocol."""
        self._last += 1
        message: dict[str, Any] = {"id": self._last, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._writing, json.dumps(message).encode() + b"\0")
        number = self._last
        self._pump(lambda: number in self._answers, 120)
        answer = self._answers.pop(number)
        assert "error" not in answer, answer
        return answer["result"]

    def open(self, url: str) -> None:
        """Load a page, and wait until its script has run."""
        self.call("Page.navigate", url=url)
        self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression, awaited."""
        found = self.call(
            "Runtime.evaluate",
            expression=expression,
            awaitPromise=True,
            returnByValue=True,
            userGesture=True,
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def until(self, expression: str, seconds: float = 120) -> Any:
        """What the expression gives as soon as that is true."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            found = self.evaluate(expression)
            if found:
                return found
            self._pump(lambda: False, 0.05)
        text = self.evaluate("document.body.innerText")
        raise AssertionError(f"{expression} did not come within {seconds} s; {text}")

    def press(self, key: str, text: str = "", modifiers: int = 0) -> None:
        """One key; `text` is what it writes. `modifiers` are those of the DevTools Protocol."""
        code = {"Tab": 9, "Enter": 13, " ": 32, "ArrowDown": 40}.get(key, 0)
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                windowsVirtualKeyCode=code,
                modifiers=modifiers,
                **({"text": text} if text and kind == "keyDown" else {}),
            )

    def look(self, width: int, scheme: str, path: Path) -> None:
        """Save the whole page as a screen of that width shows it, in light or dark."""
        self.size(width, scheme)
        metrics = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": width, "height": metrics["height"], "scale": 1}
        found = self.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(found["data"]))

    def size(self, width: int, scheme: str = "light") -> None:
        """Show the page at a width, in light or dark."""
        self.call(
            "Emulation.setEmulatedMedia",
            features=[
                {"name": "prefers-color-scheme", "value": scheme},
            ],
        )
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=width < 600,
        )

    def close(self) -> None:
        """End it, with all its processes."""
        os.close(self._writing)
        os.close(self._reading)
        try:
            self._process.wait(120)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _pump(self, is_enough: Callable[[], bool], seconds: float) -> None:
        """Take what the browser says until that is enough, or the time is over."""
        deadline = time.monotonic() + seconds
        while not is_enough():
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._reading], [], [], left)[0]:
                return
            data = os.read(self._reading, 1 << 16)
            assert data, "the browser has ended"
            *messages, self._rest = (self._rest + data).split(b"\0")
            for message in messages:
                self._note(json.loads(message))

    def _note(self, message: dict[str, Any]) -> None:
        if "id" in message:
            self._answers[message["id"]] = message
            return
        told = message["params"]
        match message["method"]:
            case "Network.requestWillBeSent":
                self.requests.append(told["request"]["url"])
            case "Runtime.exceptionThrown":
                self.console.append(str(told["exceptionDetails"]))
            case "Log.entryAdded" if told["entry"]["level"] in ("warning", "error"):
                self.console.append(f"{told['entry']['text']} {told['entry'].get('url')}")
            case "Runtime.consoleAPICalled" if told["type"] in ("warning", "error"):
                self.console.append(str(told["args"]))


def _give_pipes(commands: int, answers: int) -> None:
    """Chromium's --remote-debugging-pipe reads commands from 3 and writes answers to 4."""
    os.dup2(commands, 3)
    os.dup2(answers, 4)


def _pipe() -> tuple[int, int]:
    """A pipe whose ends are out of the way of those that the browser wants to have."""
    ends = os.pipe()
    found = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, _FIRST_FREE) for end in ends]
    for end in ends:
        os.close(end)
    return found[0], found[1]
