"""The format of log records: a line of text, or a line of JSON.

Records never contain keys or prompts. The code that logs ensures that; nothing is filtered here.
What others wrote is made harmless here, for every logger: it is escaped and bounded, so that it can
neither begin a line, nor command a terminal, nor fill the disk.

systemd's journal gets the priority of each line in a prefix such as <3>, and no time: it has one.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Literal

from horde_proxy import printable

LONGEST_MESSAGE = 4000
"""Characters of a message before they are escaped. An escape has ten characters at most, and
journald begins a new line after 48 KB, which a client could then word (LineMax=)."""
LONGEST_FIELD = 1000
"""Characters of a field, such as the path of a request. Real ones are much shorter."""
_LONGEST_EXCEPTION = 2000
"""Characters of the text of an exception; it may quote what it could not read."""
_FRAME = '  File "'
"""How each entry of a traceback begins that is not the text of an exception."""

_ExceptionInfo = (
    tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
)

log = logging.getLogger(__name__)


_ERROR_PRIORITY = 3
_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
"""The lowest level of a record, and its priority in syslog (sd-daemon(3)). Below: 7, debug."""


def is_journal() -> bool:
    """Whether stderr goes to systemd's journal.

    JOURNAL_STREAM is device and inode of what systemd connected, "9:1234" (systemd.exec(5)). A
    child process inherits the variable also where its stderr goes elsewhere.
    """
    try:
        status = os.fstat(sys.stderr.fileno())
    # stderr may be closed, or an object of a test without a descriptor.
    except (OSError, ValueError, AttributeError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def error_lines(text: str) -> str:
    """A text for stderr; each of its lines is an error where systemd's journal reads them."""
    return _with_priority(text, _ERROR_PRIORITY) if is_journal() else text


def _with_priority(text: str, priority: int) -> str:
    """The text with the priority before each line, since the journal reads each one alone."""
    return "\n".join(f"<{priority}>{line}" for line in text.split("\n"))


class _JournalFormatter(logging.Formatter):
    """What another formatter makes, with the priority of the record before each line."""

    def __init__(self, formatter: logging.Formatter) -> None:
        super().__init__()
        self._formatter = formatter

    def format(self, record: logging.LogRecord) -> str:
        known = (priority for level, priority in _PRIORITIES if record.levelno >= level)
        return _with_priority(self._formatter.format(record), next(known, 7))


class _Formatter(logging.Formatter):
    """Text: one line for each record, but for the traceback of an exception, which follows it."""

    def format(self, record: logging.LogRecord) -> str:
        # Another handler's formatter may have left its own, unescaped text of the exception.
        record.exc_text = None
        return super().format(record)

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = printable.shortened(record.message, LONGEST_MESSAGE)
        return printable.one_line(super().formatMessage(record))

    def formatException(self, ei: _ExceptionInfo) -> str:
        return "\n".join(_traceback(ei))


class _JsonFormatter(_Formatter):
    """`fields` of a record, which the log of requests sets, become members of the object."""

    def format(self, record: logging.LogRecord) -> str:
        # UTC with milliseconds, as RFC 3339 writes it: 2026-11-29T09:17:09.123Z.
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        message = printable.shortened(record.getMessage(), LONGEST_MESSAGE)
        line = {
            "time": f"{stamp}.{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            **(getattr(record, "fields", None) or {"message": message}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return printable.ascii_json(line)


def configure(style: Literal["text", "json"]) -> None:
    """Send our own messages from INFO on, and other libraries' warnings, to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    journal = is_journal()
    stamp = "" if journal else "%(asctime)s "
    text = _Formatter(f"{stamp}%(levelname)s %(name)s: %(message)s")
    formatter = _JsonFormatter() if style == "json" else text
    handler.setFormatter(_JournalFormatter(formatter) if journal else formatter)
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    # Python itself would print the error that ended a thread as it is.
    threading.excepthook = _log_failed_thread
    logging.getLogger("horde_proxy").setLevel(logging.INFO)
    # urllib3 warns of each connection that it retries, or drops because a pool is full. Both are
    # usual here, and the requests that fail are logged by us.
    logging.getLogger("urllib3").setLevel(logging.ERROR)


def configure_console() -> None:
    """Send warnings, and the error that ends a command, to its terminal, without time and level."""
    handler = logging.StreamHandler(sys.stderr)
    formatter = _Formatter("%(name)s: %(message)s")
    handler.setFormatter(_JournalFormatter(formatter) if is_journal() else formatter)
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    # Python itself would print the text of an error of ours as it is, with what a server wrote.
    sys.excepthook = _print_error


def _print_error(
    kind: type[BaseException], error: BaseException, frames: TracebackType | None
) -> None:
    sys.stderr.write(error_lines("\n".join(_traceback((kind, error, frames)))) + "\n")


def _log_failed_thread(failure: Any) -> None:
    """Log the error that ended a thread. `failure` is what threading.excepthook is called with."""
    if failure.exc_type is not SystemExit:
        info = (failure.exc_type, failure.exc_value, failure.exc_traceback)
        name = failure.thread.name if failure.thread else "of Python"
        log.error("the thread %s failed", name, exc_info=info)


def _traceback(info: _ExceptionInfo) -> Iterator[str]:
    """The lines of a traceback, of which others' text can begin none."""
    for entry in traceback.format_exception(*info):
        if entry.startswith(_FRAME):
            # Two lines or three of our own code: '  File "x.py", line 1, in f\n    f()\n'.
            yield from map(printable.one_line, entry.rstrip("\n").split("\n"))
        elif text := entry.strip("\n"):
            yield printable.one_line(text, _LONGEST_EXCEPTION)
