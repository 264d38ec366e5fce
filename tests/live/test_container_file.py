"""The container file without a builder: its steps in chroots, and its program as it would run.

Debian's Python stands in for the image's. The program runs as the image's user, on a read-only
file system with one volume, in a network of its own.
"""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.debian import (
    ROOT,
    DebianTree,
    checked,
    copy_of_the_repository,
    remove_tree,
    skip_without,
    unpack_tree,
)
from tests.test_packaging import environment, instructions, values

# debootstrap and pip take their time on a busy machine.
pytestmark = pytest.mark.timeout(3600)
URL = "http://127.0.0.1:8080"
SEARCHED = "/image/bin:/usr/local/bin:/usr/bin:/usr/sbin:/bin:/sbin"


class Stage:
    """A stage of the container file, whose instructions are followed in a root folder."""

    def __init__(self, folder: Path, build: Stage | None = None) -> None:
        self.tree = DebianTree(unpack_tree(folder))
        self._build = build
        self._directory = "/"

    def follow(self, name: str, value: str) -> None:
        if name == "WORKDIR":
            self._directory = value
            (self.tree.folder / value.lstrip("/")).mkdir(parents=True)
        elif name == "COPY":
            self._copy(value.split())
        elif name == "RUN":
            pip = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/wheels"}
            self.tree.run(f"cd {self._directory}; {value}", PATH=SEARCHED, **pip)

    def _copy(self, words: list[str]) -> None:
        folder = self.tree.folder / self._directory.lstrip("/")
        if words == [".", "."]:
            copy_of_the_repository(folder)
        elif words[0] == "--from=build":
            assert self._build is not None
            source, target = (path.lstrip("/") for path in words[1:])
            checked("cp", "-a", f"{self._build.tree.folder / source}", f"{folder / target}")
        else:
            (folder / words[-1]).mkdir(parents=True)
            for source in words[:-1]:
                shutil.copy(ROOT / source, folder / words[-1])


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The root folder of the image."""
    skip_without("debootstrap", "unshare", "ip")
    folder = tmp_path_factory.mktemp("image")
    stages: list[Stage] = []
    try:
        for number in (0, 1):
            stages.append(Stage(folder / str(number), *stages))
            if number == 0:
                stages[0].tree.run("python3 -m venv /image")
            for name, value in instructions(number):
                stages[number].follow(name, value)
        yield stages[1].tree.folder
    finally:
        for stage in stages:
            stage.tree.close()
            remove_tree(stage.tree.folder)


def test_the_program_runs_without_rights_on_a_read_only_system(image: Path) -> None:
    [user], [command], [check] = values("USER"), values("CMD"), values("HEALTHCHECK")
    variables = {**environment(), "HORDE_PROXY_HORDE__URL": "http://127.0.0.1:9"}
    variables["PATH"] = variables["PATH"].replace("$PATH", SEARCHED)
    pairs = shlex.join(f"{name}={value}" for name, value in variables.items())
    inside = f"env -i {pairs} chroot --userspec={user} --groups= {image}"
    health = shlex.join(json.loads(check.partition("CMD ")[2]))
    output = checked(
        *("unshare", "--mount", "--net", "--pid", "--fork", "bash", "-c"),
        f"""set -e
        ip link set lo up
        mount --bind {image} {image}
        cd {image}
        mount -o remount,bind,ro {image}
        mount --bind {image}/data {image}/data
        mount -o remount,bind,rw {image}/data
        mount -t tmpfs tmpfs {image}/tmp
        mount -t proc proc {image}/proc
        mount --rbind /dev {image}/dev
        echo "writing: $({inside} touch /opt/horde-proxy/new 2>&1)"
        {inside} {shlex.join(json.loads(command))} &
        for _ in $(seq 600); do {inside} {health} 2> /dev/null && break; sleep 0.2; done
        {inside} {health}
        key=$({inside} horde-proxy keys add laptop 2> /dev/null | grep -o '[^ ]*$')
        status() {{ {inside} curl -s -o /dev/null -w '%{{http_code}}' "$@" {URL}/v1/usage; }}
        echo "without a key: $(status)"
        echo "with the key: $(status -H "Authorization: Bearer $key")"
        echo "databases: $(stat -c '%u %a' {image}/data/*.db | sort -u)"
        kill -TERM %1
        wait %1 && echo "SIGTERM: ended well" || echo "SIGTERM: status $?" """,
    )
    for line in (
        "writing: touch: cannot touch '/opt/horde-proxy/new': Read-only file system",
        "without a key: 401",
        "with the key: 200",
        "databases: 10001 600",
        "SIGTERM: ended well",
    ):
        assert line in output.splitlines(), output
