"""Other programs read the manual page without a warning, and shells complete with the scripts."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from horde_proxy.commands.completion import script

PAGE = Path(__file__).parent.parent.parent / "man" / "horde-proxy.1"
# What bash does when the tab key is pressed behind these words.
_BASH = """
COMP_WORDS=(horde-proxy users re); COMP_CWORD=2
_horde_proxy_completion horde-proxy
echo "${COMPREPLY[@]}"
"""


def output(*command: str, **environ: str) -> str:
    """What a program prints, warnings too. It must succeed."""
    if not shutil.which(command[0]):
        pytest.skip(f"{command[0]} is not installed")
    env = {**os.environ, **environ}
    done = subprocess.run(command, stdout=-1, stderr=subprocess.STDOUT, text=True, env=env)
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_mandoc_finds_nothing_in_the_page() -> None:
    assert output("mandoc", "-T", "lint", "-W", "warning", str(PAGE)) == ""


def test_man_shows_the_page_without_a_warning() -> None:
    text = output("man", "--warnings", "-l", str(PAGE), MANWIDTH="100", LC_ALL="C.UTF-8")
    assert "horde-proxy users add [OPTIONS] NAME" in text
    assert "warning" not in text


@pytest.mark.parametrize(
    ("shell", "more", "printed"),
    [
        ("bash", _BASH, "restore revoke"),
        ("zsh", "type _horde_proxy_completion", "shell function"),
        ("fish", "complete -C 'horde-proxy users re'", "revoke"),
    ],
)
def test_a_shell_reads_its_script(shell: str, more: str, printed: str, tmp_path: Path) -> None:
    program = tmp_path / "horde-proxy"
    program.write_text(
        f"#!{sys.executable}\n"
        "from horde_proxy.commands.cli import main\n"
        "main(prog_name='horde-proxy')\n"
    )
    program.chmod(0o755)
    begin = "autoload -U compinit; compinit -u\n" if shell == "zsh" else ""
    environ = {
        "PYTHONPATH": str(PAGE.parent.parent),
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
    }
    assert printed in output(shell, "-c", f"{begin}{script(shell)}\n{more}", **environ)
