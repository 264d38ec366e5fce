"""A proxy with a worker whose model leads clients through their tasks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.client_scenario import MODEL, scenario
from tests.live.processes import Processes, until


def serve_script(
    tmp_path_factory: pytest.TempPathFactory, *options: str, **settings: str
) -> Iterator[tuple[str, Path]]:
    """A proxy with a worker that follows the script, and the folder that the script is about."""
    folder = tmp_path_factory.mktemp("project")
    script = tmp_path_factory.mktemp("scenario") / "scenario.json"
    script.write_text(json.dumps(scenario(folder)))
    processes = Processes()
    try:
        url = processes.serve_horde(**settings)
        follow = ["--backend", "echo", "--idle", "0.05", "--scenario", str(script)]
        processes.start("worker", "--horde", url, *follow, *options)
        until(lambda: MODEL in requests.get(f"{url}/v1/models", timeout=60).text)
        yield url, folder
    finally:
        processes.end()
