"""`horde-proxy image`: pictures from a running proxy, written to files."""

from __future__ import annotations

import base64
import binascii
import re
import sys
from pathlib import Path
from typing import Any

import click

from horde_proxy.commands import proxy_client
from horde_proxy.commands.completed_values import model_names
from horde_proxy.commands.console import echo, show_line
from horde_proxy.commands.options import config_option, url_option

_TYPES = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}
_LONGEST_NAME = 60
"""Characters of a file's name that is made of the prompt."""
_file = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.argument("prompt")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Where to write it: .png, .jpg or .webp [named after the prompt, .png].",
)
@click.option(
    "--model",
    metavar="NAME",
    shell_complete=model_names,
    help="The model [the best one that is online].",
)
@click.option("--size", metavar="WxH", help="In pixels [what suits the model].")
@click.option("--quality", metavar="NAME", help="low, medium, high, xhigh or max [medium].")
@click.option("-n", "count", type=click.IntRange(1, 10), default=1, help="How many [1].")
@click.option("--seed", metavar="NUMBER", help="The same seed gives the same picture.")
@click.option("--steps", type=int, metavar="NUMBER", help="Steps [as the quality says].")
@click.option("--negative", metavar="TEXT", help="What should not be in the picture.")
@click.option("--from", "source", type=_file, metavar="FILE", help="A picture to change.")
@click.option("--mask", type=_file, metavar="FILE", help="Its transparent parts are changed.")
@click.option("--transparent", is_flag=True, help="Without a background.")
@click.option("--force", is_flag=True, help="Overwrite files.")
@url_option
@config_option
def image(
    prompt: str,
    output: Path | None,
    source: Path | None,
    mask: Path | None,
    url: str | None,
    path: str | None,
    **options: Any,
) -> None:
    """Have a picture made by a running proxy, and write it to a file, whose name is printed."""
    base, count = proxy_client.base_url(url, path), options["count"]
    if mask is not None and source is None:
        raise click.UsageError("--mask belongs to a picture: name it with --from.")
    files = _free_files(output or Path(f"{_slug(prompt)}.png"), count, force=options["force"])
    fields = _fields(prompt, _type_of(files[0]), options)
    parts = {"image": source, "mask": mask}
    sources = {name: file.read_bytes() for name, file in parts.items() if file is not None}
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    for item in proxy_client.pictures(base, fields, sources):
        if isinstance(item, str):
            _show_progress(item)
            continue
        files[written].write_bytes(_decoded(item))
        echo(str(files[written]))
        written += 1
        if written == count:
            break
    if not written:
        raise click.ClickException("the proxy sent no picture")
    if written < count:
        echo(f"({written} of {count} were made)", err=True)


def _fields(prompt: str, kind: str, options: dict[str, Any]) -> dict[str, Any]:
    """The fields of the request that are set."""
    fields = {
        "prompt": prompt,
        "model": options["model"],
        "n": options["count"],
        "size": options["size"],
        "quality": options["quality"],
        "seed": options["seed"],
        "steps": options["steps"],
        "negative_prompt": options["negative"],
        "background": "transparent" if options["transparent"] else None,
        "output_format": kind,
        "response_format": "b64_json",
        "stream": True,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _free_files(wanted: Path, count: int, *, force: bool) -> list[Path]:
    """Files for so many pictures: fox.png, or fox-1.png, fox-2.png, ... Raises ClickException."""
    files = [wanted]
    if count > 1:
        files = [wanted.with_stem(f"{wanted.stem}-{number}") for number in range(1, count + 1)]
    taken = [file for file in files if file.exists()]
    if taken and not force:
        raise click.ClickException(f"{taken[0]} exists: name another file, or use --force")
    return files


def _type_of(file: Path) -> str:
    kind = _TYPES.get(file.suffix.lower())
    if kind is None:
        raise click.UsageError(f"{file.name} must end in .png, .jpg or .webp.")
    return kind


def _slug(prompt: str) -> str:
    """The prompt as a file's name: "A fox, in snow" is "a-fox-in-snow"."""
    words = re.sub(r"[^\w]+", "-", prompt.lower()).strip("-")
    return words[:_LONGEST_NAME].rstrip("-") or "picture"


def _decoded(event: dict[str, Any]) -> bytes:
    try:
        return base64.b64decode(str(event.get("b64_json", "")), validate=True)
    except (binascii.Error, ValueError) as exc:
        raise click.ClickException("the proxy sent a picture that cannot be read") from exc


def _show_progress(text: str) -> None:
    if sys.stderr.isatty():
        show_line(text)
