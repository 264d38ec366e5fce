"""`horde-proxy horde news|filters|modes`: what an operator arranges, in the horde's database."""

import click


@click.group()
def news() -> None:
    """N."""


@click.group()
def filters() -> None:
    """N."""


@click.group()
def modes() -> None:
    """N."""
