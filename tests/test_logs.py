"""What others wrote, in the log: escaped, bounded, and in its own line."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pytest

from horde_proxy import logs, serving
from horde_proxy.api.access_log import RequestLog
from horde_proxy.commands.console import PrintableError
from horde_proxy.upstreams.base import Accepted, Spent
from tests.support import World

Capture = pytest.CaptureFixture[str]
STYLES: tuple[Literal["text", "json"], ...] = ("text", "json")
# Line ends, a terminal's commands (ESC and C1's CSI), DEL, reversed text, half an emoji, and a
# character that no font shows.
FOREIGN = "a\r\n\x1b[2J\x9b1m\x7f\u202eb\u2028\ud800\u200bc"
ESCAPED = r"a\r\n\x1b[2J\x9b1m\x7f\u202eb\u2028\ud800\u200bc"


@contextmanager
def log_format(style: Literal["text", "json"]) -> Iterator[None]:
    """Log to stderr in this format for a while."""
    root, hook = logging.getLogger(), threading.excepthook
    handlers, level = root.handlers[:], root.level
    try:
        logs.configure(style)
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        threading.excepthook = hook


def get(path: str, **options: Any) -> None:
    """A whole exchange: the request is logged when its response is closed."""
    World().http().get(path, **options).close()


def is_plain(text: str) -> bool:
    return all(line.isprintable() for line in text.split("\n"))


def test_no_foreign_text_begins_a_line_of_the_log(capsys: Capture) -> None:
    foreign = "a\nb\rc\x85d\u2028e"
    with log_format("text"):
        logging.getLogger("horde_proxy").warning("home failed: %s", foreign)
    [line] = capsys.readouterr().err.splitlines()
    assert line.endswith(r" WARNING horde_proxy: home failed: a\nb\rc\x85d\u2028e")


def test_a_traceback_keeps_its_lines(capsys: Capture) -> None:
    with log_format("text"):
        try:
            raise ValueError("a")
        except ValueError:
            logging.getLogger("horde_proxy").exception("failed")
    first, second, *_, last = capsys.readouterr().err.splitlines()
    assert first.endswith(" ERROR horde_proxy: failed")
    assert (second, last) == ("Traceback (most recent call last):", "ValueError: a")


def test_a_log_line_can_be_json(capsys: Capture) -> None:
    with log_format("json"):
        logging.getLogger("horde_proxy.requests").info("x", extra={"fields": {"status": 200}})
        logging.getLogger("horde_proxy").warning("said %s", "this")
    first, second = map(json.loads, capsys.readouterr().err.splitlines())
    assert (first["level"], first["logger"], first["status"]) == (
        "info",
        "horde_proxy.requests",
        200,
    )
    assert second["message"] == "said this"


def test_what_others_wrote_is_escaped_in_a_message(capsys: Capture) -> None:
    with log_format("text"):
        logging.getLogger("horde_proxy").warning("home failed: %s", FOREIGN)
    line, rest = capsys.readouterr().err.split("\n")
    assert line.endswith(" WARNING horde_proxy: home failed: " + ESCAPED)
    assert rest == ""


def test_in_json_it_is_escaped_and_complete(capsys: Capture) -> None:
    with log_format("json"):
        logging.getLogger("horde_proxy").warning("home failed: %s", FOREIGN)
    text = capsys.readouterr().err
    assert is_plain(text) and text.isascii()
    assert json.loads(text)["message"] == "home failed: " + FOREIGN


@pytest.mark.parametrize("style", STYLES)
def test_a_path_with_a_line_and_an_escape_sequence_stays_in_its_line(
    style: Literal["text", "json"], capsys: Capture
) -> None:
    with log_format(style):
        get(
            "/v1/x%0d%0a%1b%5B2J%7f%e2%80%aeGET / 200",
            headers={"X-Forwarded-For": "1.1.1.1 status=200"},
        )
    text = capsys.readouterr().err
    [line] = text.splitlines()
    assert is_plain(text) and line.isascii()
    if style == "json":
        assert json.loads(line)["path"] == "/v1/x\r\n\x1b[2J\x7f\u202eGET / 200"
    else:
        assert r'GET "/v1/x\r\n\u001b[2J\u007f\u202eGET / 200" 403 ' in line


@pytest.mark.parametrize("style", STYLES)
def test_a_bug_names_its_path_in_one_line(
    style: Literal["text", "json"], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("horde_proxy.api.models.current_context", lambda: 1 / 0)
    with log_format(style):
        get("/v1/models/a%1b%5B2J%e2%80%ae")
    text = capsys.readouterr().err
    assert is_plain(text)
    assert "ZeroDivisionError" in text


@pytest.mark.parametrize("style", STYLES)
def test_the_text_of_an_exception_begins_no_line(
    style: Literal["text", "json"], capsys: Capture
) -> None:
    with log_format(style):
        try:
            try:
                raise KeyError(FOREIGN)
            except KeyError:
                raise ValueError("a\n2026 INFO fake\x1b[2J\u202e") from None
        except ValueError:
            logging.getLogger("horde_proxy").exception("failed")
    text = capsys.readouterr().err
    assert is_plain(text)
    if style == "text":
        first, second, *_, last = text.splitlines()
        assert first.endswith(" ERROR horde_proxy: failed")
        assert second == "Traceback (most recent call last):"
        assert last == r"ValueError: a\n2026 INFO fake\x1b[2J\u202e"
    else:
        assert json.loads(text)["exception"].endswith(r"a\n2026 INFO fake\x1b[2J\u202e")


@pytest.mark.parametrize("style", STYLES)
def test_a_line_has_a_bound(style: Literal["text", "json"], capsys: Capture) -> None:
    with log_format(style):
        logging.getLogger("horde_proxy").warning("failed: %s", "\U000e0001" * 1_000_000)
        try:
            raise ValueError("x" * 1_000_000)
        except ValueError:
            logging.getLogger("horde_proxy").exception("failed")
    lines = capsys.readouterr().err.split("\n")
    # journald begins a new line after 48 KB.
    assert max(map(len, lines)) < 48 * 1024
    assert "(996008 characters left out)" in lines[0]


@pytest.mark.parametrize("style", STYLES)
def test_a_long_path_is_cut_to_a_line(style: Literal["text", "json"], capsys: Capture) -> None:
    with log_format(style):
        get("/v1/" + "x" * 3000 + "/end")
    text = capsys.readouterr().err
    assert "/v1/" + "x" * 293 + "..." in text
    assert len(text) < 600


def test_a_key_in_a_path_is_not_logged(capsys: Capture) -> None:
    # SillyTavern 1.19 looks up the key of its account as if it were a shared one.
    with log_format("text"):
        get("/api/v2/sharedkeys/S9kHvt2atXPh0qFviDr8mw")
    text = capsys.readouterr().err
    assert "GET /api/v2/sharedkeys/... " in text
    assert "S9kHvt2atXPh0qFviDr8mw" not in text


@pytest.mark.parametrize("style", STYLES)
def test_a_long_value_is_shortened_in_the_middle(
    style: Literal["text", "json"], capsys: Capture
) -> None:
    with log_format(style):
        RequestLog("id", "GET", "/", "1.1.1.1", model="x" * 3000 + "/end").write(0.0)
    text = capsys.readouterr().err
    assert 1000 < len(text) < 1400
    assert "x... (2004 characters left out) ...x" in text and "xx/end" in text


@pytest.mark.parametrize("style", STYLES)
def test_gunicorns_own_messages_are_escaped(
    style: Literal["text", "json"], capsys: Capture
) -> None:
    from gunicorn.config import Config as GunicornConfig

    with log_format(style):
        logger = serving.Logger(GunicornConfig())
        try:
            raise ValueError("b\n\x1b[2J")
        except ValueError:
            logger.exception("Error handling request %s", "/a\n\x1b[2J")
    text = capsys.readouterr().err
    assert is_plain(text)
    assert "Error handling request /a" in text


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_the_error_that_ends_a_thread_is_escaped(capsys: Capture) -> None:
    def fail() -> None:
        raise ValueError("a\n\x1b[2J")

    with log_format("text"):
        thread = threading.Thread(target=fail, name="t")
        thread.start()
        thread.join()
    text = capsys.readouterr().err
    assert is_plain(text)
    assert " ERROR horde_proxy.logs: the thread t failed\n" in text


def test_another_handlers_text_of_an_exception_is_not_taken_over(capsys: Capture) -> None:
    info: Any = (ValueError, ValueError("a\n\x1b[2J"), None)
    record = logging.LogRecord("x", logging.ERROR, "", 0, "failed", (), info)
    record.exc_text = "raw\x1b[2J"
    with log_format("text"):
        logging.getLogger().handle(record)
    assert r"ValueError: a\n\x1b[2J" in capsys.readouterr().err


def test_the_console_of_a_command_is_escaped(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", root.level)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    logs.configure_console()
    logging.getLogger("horde_proxy.worker.bridge").warning("job %s failed", FOREIGN)
    assert capsys.readouterr().err == f"horde_proxy.worker.bridge: job {ESCAPED} failed\n"


def test_the_error_that_ends_a_command_is_escaped(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    logs.configure_console()
    try:
        raise ValueError(FOREIGN)
    except ValueError as exc:
        sys.excepthook(ValueError, exc, exc.__traceback__)
    text = capsys.readouterr().err
    assert is_plain(text)
    assert text.endswith(f"\nValueError: {ESCAPED}\n")


@contextmanager
def journal_stream(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[Path]:
    """A file that is stderr, as systemd would say that its journal is."""
    path = folder / "journal"
    with path.open("w") as file, monkeypatch.context() as patch:
        status = os.fstat(file.fileno())
        patch.setattr(sys, "stderr", file)
        patch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        yield path


def test_the_journal_gets_priorities_and_no_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with journal_stream(monkeypatch, tmp_path) as path, log_format("text"):
        logger = logging.getLogger("horde_proxy")
        logger.info("here")
        logger.warning("home failed: %s", "a\n<0>b")
        try:
            raise ValueError("c")
        except ValueError:
            logger.exception("failed")
    lines = path.read_text().splitlines()
    assert lines[:2] == [
        "<6>INFO horde_proxy: here",
        r"<4>WARNING horde_proxy: home failed: a\n<0>b",
    ]
    assert lines[2] == "<3>ERROR horde_proxy: failed"
    assert lines[3] == "<3>Traceback (most recent call last):"
    assert all(line.startswith("<3>") for line in lines[2:])


def test_json_keeps_its_time_in_the_journal(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with journal_stream(monkeypatch, tmp_path) as path, log_format("json"):
        logging.getLogger("horde_proxy").warning("here")
    priority, line = path.read_text()[:3], path.read_text()[3:]
    assert (priority, json.loads(line)["message"]) == ("<4>", "here")


def test_a_stderr_that_was_redirected_is_no_journal(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "9:1234")
    with log_format("text"):
        logging.getLogger("horde_proxy").warning("here")
    assert capsys.readouterr().err.startswith("2")


def test_the_error_that_ends_a_command_is_an_error_in_the_journal(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with journal_stream(monkeypatch, tmp_path) as path:
        PrintableError("one\ntwo").show(sys.stderr)
    assert path.read_text() == "<3>Error: one\n<3>two\n"


def test_kudos_of_pictures_that_nobody_waited_for_are_noted() -> None:
    record = RequestLog("id", "POST", "/v1/images/generations", "ann")
    with pytest.raises(GeneratorExit), record.recording():
        record.note(Accepted(spent=lambda: Spent(0, 0, 17.0)))
        raise GeneratorExit
    assert (record.kudos, record.completion_tokens) == (17.0, 0)
