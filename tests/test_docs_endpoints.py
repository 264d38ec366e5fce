"""The example file of docs/endpoints.md."""

from __future__ import annotations

import re
from pathlib import Path

from horde_proxy.config.sources import load

PAGE = Path(__file__).parent.parent / "docs" / "endpoints.md"


def test_the_example_in_one_file_is_a_settings_file(tmp_path: Path) -> None:
    section = PAGE.read_text(encoding="utf-8").partition("## All of it in one file")[2]
    example = re.search(r"```toml\n(.*?)```", section, re.DOTALL)
    assert example is not None
    file = tmp_path / "horde-proxy.toml"
    file.write_text(example[1], encoding="utf-8")
    file.chmod(0o600)
    config = load(str(file), {})
    assert [endpoint.name for endpoint in config.endpoints] == [
        "small",
        "desktop",
        "cloud",
        "horde",
    ]
    assert config.routing.hedge
