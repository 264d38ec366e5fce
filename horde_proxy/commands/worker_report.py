"""What a running worker says: a status line on a terminal, a line an hour in a journal."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TextIO

from horde_proxy.commands.console import say, show_line
from horde_proxy.worker.crew import WorkerEnd
from horde_proxy.worker.status import WorkerStatus
from horde_proxy.worker.status_page import status_line

_LINE_SECONDS = 1.0
_JOURNAL_SECONDS = 3600.0
_DRAIN_SECONDS = 0.2
"""How soon a signal is answered with a sentence."""


def report_while_running(status: WorkerStatus, end: WorkerEnd, output: TextIO) -> None:
    """Report in a thread of its own until the worker ends."""
    report = show_line if output.isatty() else say
    seconds = _LINE_SECONDS if output.isatty() else _JOURNAL_SECONDS
    for name, call in (
        ("status", lambda: report_lines(status, end, report, seconds)),
        ("farewell", lambda: _say_farewell(status, end)),
    ):
        threading.Thread(target=call, name=f"report-{name}", daemon=True).start()


def report_lines(
    status: WorkerStatus, end: WorkerEnd, report: Callable[[str], None], seconds: float
) -> None:
    """Report the status each so many seconds, where it has changed, until the worker drains."""
    last = ""
    while not end.drain.wait(seconds):
        line = status_line(status.snapshot())
        if line != last:
            report(line)
        last = line


def _say_farewell(status: WorkerStatus, end: WorkerEnd) -> None:
    end.drain.wait()
    running = len(status.snapshot().running)
    if running and not end.stop.is_set():
        say(
            f"Draining: running jobs: {running}. "
            "Press Ctrl-C or send SIGTERM again to give them back now."
        )
