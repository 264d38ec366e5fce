"""The format of log records: a line of text, or a line of JSON.

Records never contain keys or prompts. The code that logs ensures that; nothing is filtered here.
What others wrote is made harmless here, for every logger: it is escaped and bounded, so that it can
neither begin a line, nor command a terminal, nor fill the disk.
"""

from __future__ import annotations

import logging
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
    text = _Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(_JsonFormatter() if style == "json" else text)
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
    handler.setFormatter(_Formatter("%(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    # Python itself would print the text of an error of ours as it is, with what a server wrote.
    sys.excepthook = _print_error


def _print_error(
    kind: type[BaseException], error: BaseException, frames: TracebackType | None
) -> None:
    sys.stderr.write("\n".join(_traceback((kind, error, frames))) + "\n")


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
