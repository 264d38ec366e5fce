"""Processes that open one SQLite file at once."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

from horde_proxy.database.engine import Database
from tests.test_database import NEWER, VERSION_1, run, titles


def upgrade(url: str) -> None:
    database = Database(url, setting="access.database")
    assert titles(database, NEWER) == ["Dracula", "Emma"]
    database.close()


def test_processes_that_open_at_once_upgrade_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/library.db"
    run(url, VERSION_1)
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=upgrade, args=(url,)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(50)
    assert [process.exitcode for process in processes] == [0] * 4
    assert len(list(tmp_path.glob("library.db.library-1.*"))) == 1
