"""The shell blocks of the docs that need a running proxy, in bash, with a network of their own.

`unshare --net` gives each page 127.0.0.1:8080 for itself, so that it can be run as it is written.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from horde_proxy.worker.backends.built_in import can_run_gguf
from horde_proxy.worker.model_file import installed
from tests.doc_commands import ROOT, Block, shell_blocks
from tests.live.client_programs import CACHE

pytestmark = pytest.mark.skipif(
    os.getuid() != 0 or not shutil.which("unshare"), reason="needs root and unshare"
)
# {"custom_id": "1", ...}: the lines of the page's in.jsonl
_BATCH_LINE = re.compile(r'^\{"custom_id".*\}$', re.M)
_SERVERS = ("serve", "horde")

_BEGIN = """
set -eo pipefail
ip link set lo up
export HOME=$PWD XDG_STATE_HOME=$PWD/.local/state XDG_CONFIG_HOME=$PWD/.config
curl() { command curl -sS --fail-with-body "$@" | tee -a answers; }
ready() {
    for _ in $(seq 1000); do
        command curl -sf http://127.0.0.1:8080/$1 > got && grep -q "$2" got && return
        sleep 0.2
    done
    echo "nothing answers"; exit 1
}
end() { kill "$server"; wait "$server" || true; }
"""


def run(folder: Path, script: str) -> str:
    """What a script prints in a folder with .venv/bin/horde-proxy. It must succeed."""
    programs = folder / ".venv" / "bin"
    programs.mkdir(parents=True)
    program = programs / "horde-proxy"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m horde_proxy "$@"\n')
    program.chmod(0o755)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["unshare", "--net", "--pid", "--fork", "--kill-child", "bash", "-c", _BEGIN + script],
        cwd=folder,
        env={"PATH": path, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=580,
    )
    assert done.returncode == 0, (script, done.stdout)
    return done.stdout


def text_of(block: Block) -> str:
    """A block with what its reader would put in: the echo model, and the id of an answer."""
    text = block.text.replace("horde-proxy/SmolLM2-135M-Instruct", "horde-proxy/echo")
    return text.replace("resp_...", "$(grep -oE 'resp_[0-9a-f]+' answers | head -n 1)")


def pages(kind: str) -> list[str]:
    return sorted({block.page for block in shell_blocks(kind=kind)})


@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", pages("served"))
def test_the_blocks_of_a_page_run_beside_a_proxy(page: str, tmp_path: Path) -> None:
    """The proxy is the demo with its echo model and its painter."""
    lines = _BATCH_LINE.findall((ROOT / page).read_text(encoding="utf-8"))
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    script = ".venv/bin/horde-proxy demo --echo > demo.log 2>&1 & server=$!\n"
    script += "ready v1/models painter\n"
    if page == "README.md":
        if not can_run_gguf() or installed(None) is None:
            pytest.skip("the real model, or what runs it, is not installed")
        # It cannot be fetched without a network. On other pages the toy answers, which is quick.
        script = f"export XDG_CACHE_HOME={CACHE.parent}\n{script}ready v1/models SmolLM2\n"
    script += "\n".join(text_of(block) for block in shell_blocks(page, "served"))
    run(tmp_path, f"{script}\nend\n")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", pages("starts"))
def test_the_servers_of_a_page_start_and_the_rest_runs_beside_them(
    page: str, tmp_path: Path
) -> None:
    (tmp_path / "config.py").write_text('endpoints = [{"url": "http://127.0.0.1:9"}]\n')
    script, is_running = "", False
    for block in shell_blocks(page, "starts"):
        for command in block.commands:
            if re.search(rf"bin/horde-proxy ({'|'.join(_SERVERS)})( --config \S+)?$", command):
                script += "end\n" if is_running else ""
                script += f"{command} > server.log 2>&1 & server=$!\nready health/live ok\n"
                is_running = True
            else:
                script += f"{command}\n"
                # A worker in the background: its model has to be there for the next line.
                script += "ready v1/models echo\n" if command.endswith("&") else ""
    run(tmp_path, f"{script}end\n")


def test_a_command_that_fails_is_noticed(tmp_path: Path) -> None:
    """Also one that waits for a server which answers with an error, and one in a pipe."""
    with pytest.raises(AssertionError, match="no such command"):
        run(tmp_path, ".venv/bin/horde-proxy nothing 2>&1 | sed 's/No/no/'\ntrue\n")
