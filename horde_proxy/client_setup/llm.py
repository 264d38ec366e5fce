"""llm by Simon Willison: a model named `horde` in its list of further models.

llm 0.36 reads the list from extra-openai-models.yaml, a YAML list.
"""

from __future__ import annotations

from horde_proxy.client_setup.contract import (
    ConfiguredClient,
    ProxyForClient,
    RefusedFile,
    sees_images,
)
from horde_proxy.client_setup.marked_block import FIRST, LAST, quoted, split, with_block

_FILE = "io.datasette.llm/extra-openai-models.yaml"


def _configured(text: str, proxy: ProxyForClient) -> str:
    indent = _indent_of_list(text)
    lines = [
        "- model_id: horde",
        f"  model_name: {quoted(proxy.model_id)}",
        f"  api_base: {quoted(proxy.base_url)}",
        "  supports_tools: true",
        "  supports_schema: true",
    ]
    if sees_images(proxy.model):
        lines.append("  vision: true")
    # With a name of a key, llm also reads OPENAI_API_KEY where no key of that name is stored.
    if proxy.has_key:
        lines.append("  api_key_name: horde")
    return with_block(text, [indent + line for line in (FIRST, *lines, LAST)])


def _indent_of_list(text: str) -> str:
    """The spaces before the items of the user's list. Raises RefusedFile if it is not a list."""
    before, after = split(text)
    indent = None
    for line in f"{before or ''}{after}".splitlines():
        content = line.strip()
        if not content or content.startswith("#") or line.startswith("---"):
            continue
        spaces = line[: len(line) - len(line.lstrip(" "))]
        if indent is None:
            indent = spaces
        # An item at the list's own edge, or more of an item, which stands to the right of it.
        is_item = spaces == indent and (content == "-" or content.startswith("- "))
        if not is_item and len(spaces) <= len(indent):
            raise RefusedFile(
                f'"{content}" is not an item of a list: write the models as lines that begin with '
                '"- ", or see the lines of setup with --print and a new --output'
            )
        if content.removeprefix("- ").replace('"', "").replace("'", "") == "model_id: horde":
            raise RefusedFile("it has a model named horde already: rename or delete it")
    return indent or ""


CLIENT = ConfiguredClient(
    name="llm",
    title="llm, a command for prompts",
    api="chat",
    paths=(f"$LLM_USER_PATH/{_FILE.partition('/')[2]}", "{config}/" + _FILE),
    configured=_configured,
    steps=lambda proxy, path: 'Try it: llm -m horde "Hello"',
)
