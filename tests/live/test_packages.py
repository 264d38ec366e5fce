"""The sdist and the wheel: complete, and pip, pipx and uv install what serves by itself."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from horde_proxy.version import VERSION
from tests.live.processes import answers, free_port, until

ROOT = Path(__file__).parent.parent.parent
MADE_BY_SETUPTOOLS = {"PKG-INFO"}
# pip fetches what the wheel needs.
pytestmark = pytest.mark.timeout(900)


def run(*command: str, folder: Path | None = None, **variables: str) -> str:
    """What a command prints; fails with its errors."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ended = subprocess.run(
        command,
        cwd=folder,
        env={**environment, **variables},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def tracked_files() -> set[str]:
    """All files in git, by path; the link to a folder within the package is its files."""
    if not (ROOT / ".git").exists():
        pytest.skip("this is no checkout of git")
    listed = run("git", "ls-files", "-z", folder=ROOT).split("\0")
    return {name for name in listed if name and not (ROOT / name).is_dir()}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that was made from it."""
    folder = tmp_path_factory.mktemp("built")
    copy = folder / "checkout"
    for name in tracked_files():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, copy / name)
    (copy / "horde_proxy" / "systemd").symlink_to("../systemd")
    run(sys.executable, "-m", "build", "--outdir", str(folder), str(copy))
    return folder


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the programs of a fresh environment that has the wheel only."""
    [wheel] = built.glob("*.whl")
    folder = tmp_path_factory.mktemp("installed")
    return install("pip", sys.executable, str(wheel), folder).parent


def test_the_sdist_has_every_file_of_the_repository(built: Path) -> None:
    [path] = built.glob("*.tar.gz")
    with tarfile.open(path) as sdist:
        files = [member.name for member in sdist.getmembers() if member.isfile()]
    names = {name.partition("/")[2] for name in files}
    # The link is followed, so that the files are there twice.
    units = {f"horde_proxy/systemd/{path.name}" for path in (ROOT / "systemd").iterdir()}
    assert {name for name in names if ".egg-info/" not in name} == (
        tracked_files() | units | MADE_BY_SETUPTOOLS
    )


def test_the_wheel_has_every_file_of_the_package_and_the_units(built: Path) -> None:
    [path] = built.glob("*.whl")
    with zipfile.ZipFile(path) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    expected = {name for name in tracked_files() if name.startswith("horde_proxy/")}
    units = {f"horde_proxy/systemd/{path.name}" for path in (ROOT / "systemd").iterdir()}
    manual = {f"horde_proxy-{VERSION}.data/data/share/man/man1/horde-proxy.1"}
    assert names == expected | units | manual


def python_of(version: str) -> str:
    """A Python of this version; skips where there is none."""
    if sys.version.startswith(f"{version}."):
        return sys.executable
    known = sorted(Path("~/.pyenv/versions").expanduser().glob(f"{version}.*/bin/python"))
    # A shim may be on the path without a Python behind it.
    for candidate in (f"python{version}", *map(str, known)):
        if shutil.which(candidate):
            asked = [candidate, "--version"]
            if subprocess.run(asked, capture_output=True, check=False).returncode == 0:
                return candidate
    pytest.skip(f"Python {version} is not here")


def install(installer: str, python: str, wheel: str, folder: Path) -> Path:
    """Install a wheel into a folder; the program."""
    if installer == "pip":
        run(python, "-m", "venv", str(folder))
        run(str(folder / "bin" / "pip"), "install", "-q", wheel)
        return folder / "bin" / "horde-proxy"
    if importlib.util.find_spec(installer) is None:
        pytest.skip(f"{installer} is not installed")
    command = [sys.executable, "-m", installer]
    home, programs = str(folder / "home"), str(folder / "bin")
    if installer == "pipx":
        places = {"PIPX_HOME": home, "PIPX_BIN_DIR": programs, "PIPX_MAN_DIR": str(folder / "man")}
        run(*command, "install", "--python", python, wheel, folder=None, **places)
    else:
        places = {"UV_TOOL_DIR": home, "UV_TOOL_BIN_DIR": programs}
        run(*command, "tool", "install", "-q", "--python", python, wheel, folder=None, **places)
    return folder / "bin" / "horde-proxy"


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
@pytest.mark.parametrize("installer", ["pip", "pipx", "uv"])
def test_an_installer_brings_a_demo_that_answers(
    built: Path, installed: Path, tmp_path: Path, installer: str, version: str
) -> None:
    [wheel] = built.glob("*.whl")
    python = python_of(version)
    if (installer, python) == ("pip", sys.executable):
        program = installed / "horde-proxy"
    else:
        program = install(installer, python, str(wheel), tmp_path / "installed")
    bind = f"127.0.0.1:{free_port()}"
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    demo = subprocess.Popen(
        [program, "demo", "--model", "ngram", "--bind", bind], cwd=tmp_path, env=environment
    )
    try:
        # Its worker offers the model a little later than the proxy answers.
        models = f"http://{bind}/v1/models"
        until(lambda: answers(models) and "ngram" in requests.get(models, timeout=60).text)
        chat = [str(program), "chat", "--url", f"http://{bind}/v1", "Hello"]
        assert subprocess.check_output(chat, cwd=tmp_path, env=environment, text=True).strip()
    finally:
        demo.terminate()
        demo.wait(60)


@pytest.fixture(params=["serve", "demo"])
def url(request: pytest.FixtureRequest, installed: Path, tmp_path: Path) -> Iterator[str]:
    """What the installed program serves, without the repository's folder in reach."""
    bind = f"127.0.0.1:{free_port()}"
    options = ["--model", "ngram"] if request.param == "demo" else []
    process = subprocess.Popen(
        [str(installed / "horde-proxy"), request.param, "--bind", bind, *options],
        cwd=tmp_path,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "HORDE_PROXY_HORDE__URL": "http://127.0.0.1:9",
        },
    )
    try:
        until(lambda: answers(f"http://{bind}/health/live"))
        yield f"http://{bind}"
    finally:
        process.terminate()
        process.wait(60)


def test_the_installed_program_serves_its_page(url: str) -> None:
    page = requests.get(url, headers={"Accept": "text/html"}, timeout=60)
    assert page.ok and "page.js" in page.text
    assert requests.get(f"{url}/page/static/page.js", timeout=60).ok


def test_the_installed_program_prints_a_unit_that_starts_it(
    installed: Path, tmp_path: Path
) -> None:
    printed = run(
        str(installed / "horde-proxy"), "service", "install", "--system", "--print", folder=tmp_path
    )
    assert f"ExecStart={installed}/horde-proxy serve" in printed
