"""The format of log records on stderr: a line of text, or a line of JSON.

Records never contain keys or prompts. The code that logs ensures that; nothing is filtered here.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Literal

# A foreign name or message with a newline must not write a line of its own into the log. These are
# the characters at which str.splitlines, and so many readers of logs, end a line.
_LINE_BREAKS = {
    ord(character): ascii(character)[1:-1] for character in "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
}


class _TextFormatter(logging.Formatter):
    """One line for each record, but for the traceback of an exception, which follows it."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return super().formatMessage(record).translate(_LINE_BREAKS)


class _JsonFormatter(logging.Formatter):
    """`fields` of a record, which the log of requests sets, become members of the object."""

    def format(self, record: logging.LogRecord) -> str:
        # UTC with milliseconds, as RFC 3339 writes it: 2026-11-29T09:17:09.123Z.
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        fields = getattr(record, "fields", None) or {"message": record.getMessage()}
        line = {
            "time": f"{stamp}.{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            **fields,
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def configure(style: Literal["text", "json"]) -> None:
    """Send our own messages from INFO on, and other libraries' warnings, to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    text = _TextFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(_JsonFormatter() if style == "json" else text)
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("horde_proxy").setLevel(logging.INFO)
    # urllib3 warns of each connection that it retries, or drops because a pool is full. Both are
    # usual here, and the requests that fail are logged by us.
    logging.getLogger("urllib3").setLevel(logging.ERROR)
