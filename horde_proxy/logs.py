"""The format of log records on stderr: a line of text, or a line of JSON.

Records never contain keys or prompts: whoever logs sees to that.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Literal


class _JsonFormatter(logging.Formatter):
    """`fields` of a record, which the log of requests sets, become members of the object."""

    def format(self, record: logging.LogRecord) -> str:
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
    text = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(_JsonFormatter() if style == "json" else text)
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("horde_proxy").setLevel(logging.INFO)
    # It warns of each connection that is tried again, or that a full pool drops.
    logging.getLogger("urllib3").setLevel(logging.ERROR)
