"""How the user adds an extra of setup.cfg, for error messages."""

from __future__ import annotations

import sys


def command_for(extra: str) -> str:
    """The command that installs an extra, and where to run it.

    No package index has this project, and somebody else's package could take its name there.
    """
    return f'in the checkout, {sys.executable} -m pip install ".[{extra}]"'
