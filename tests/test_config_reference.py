"""docs/settings.md, which is generated from the settings."""

from __future__ import annotations

from pathlib import Path

from horde_proxy.config.reference import reference

PAGE = Path(__file__).parent.parent / "docs" / "settings.md"
COMMAND = "python -m horde_proxy.config.reference > docs/settings.md"


def test_the_page_of_the_settings_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference(), f"run: {COMMAND}"


def test_a_row_has_type_default_meaning_and_variable() -> None:
    assert (
        "| `grace` | number | `30` | Seconds that running chats have to end when the proxy is "
        "stopped. | `HORDE_PROXY_SERVER__GRACE` |"
    ) in reference()
    assert (
        '| `type` | text | `"openai"` | What kind of server it is: `openai` (any OpenAI-compatible '
        "server), `ocf` (a node of the Open Compute Framework) or `horde` (an AI Horde). |"
    ) in reference()
    assert "| `models` | list of text | `[]` | Globs of the models that it may use" in reference()
