"""`horde-proxy setup`: the files that it writes, keeps and puts back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import responses
from click.testing import CliRunner, Result

from horde_proxy.commands.cli import main
from tests.test_client_setup import BIG, CODEX, LLM

BASE = "http://proxy.invalid/v1"
CODEX_HERE = CODEX.replace("http://127.0.0.1:8080", "http://proxy.invalid")
LLM_HERE = LLM.replace("http://127.0.0.1:8080", "http://proxy.invalid")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("OPENAI_API_KEY", "CODEX_HOME", "LLM_USER_PATH", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def proxy() -> Any:
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
        mock.get(f"{BASE}/models", json={"data": [BIG]})
        yield mock


def setup(*words: str) -> Result:
    return CliRunner().invoke(main, ["setup", *words, "--url", BASE])


def llm_file(home: Path, text: str = "# mine\n- model_id: other\n  model_name: x\n") -> Path:
    path = home / "models.yaml"
    path.write_text(text)
    return path


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_list_says_where_each_client_is_configured(home: Path) -> None:
    lines = setup("--list").stdout.splitlines()
    assert f"{home}/.codex/horde.config.toml" in lines[2]
    assert lines[9].startswith("open-webui") and "none: steps are printed" in lines[9]


def test_a_variable_of_the_client_says_where_its_file_is(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CODEX_HOME", "/srv/codex")
    monkeypatch.setenv("OPENCODE_CONFIG", "/srv/opencode.json")
    lines = setup("--list").stdout.splitlines()
    assert lines[1].endswith("/srv/opencode.json")
    assert lines[2].endswith("/srv/codex/horde.config.toml")


def test_a_client_is_configured_and_tried(
    home: Path, proxy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    answer = {"output": [{"content": [{"type": "output_text", "text": "Hello."}]}]}
    proxy.post(f"{BASE}/responses", json=answer)
    result = setup("codex")
    path = home / ".codex" / "horde.config.toml"
    assert result.exit_code == 0, result.output
    assert path.read_text() == CODEX_HERE
    assert result.stdout.splitlines() == [
        f"{path}: written, for koboldcpp/Big-70B, 32768 tokens of context",
        "Start it in your project: codex --profile horde",
        "It answers: Hello.",
    ]
    assert proxy.calls[-1].request.headers["Authorization"] == "Bearer secret"
    assert json.loads(proxy.calls[-1].request.body)["model"] == "koboldcpp/Big-70B"


def test_a_failed_try_says_why_and_the_file_stays_written(home: Path, proxy: Any) -> None:
    proxy.post(f"{BASE}/chat/completions", json={"error": {"message": "No worker."}}, status=400)
    path = llm_file(home, "")
    result = setup("llm", "--output", str(path))
    assert (result.exit_code, path.read_text()) == (1, LLM_HERE)
    assert "Error: No worker." in result.stderr


def test_print_shows_the_file_and_changes_nothing(home: Path, proxy: Any) -> None:
    path = llm_file(home)
    own = path.read_text()
    assert setup("llm", "--output", str(path), "--print").stdout == own + LLM_HERE
    assert path.read_text() == own
    assert names_in(home) == ["models.yaml"]


def test_restore_puts_back_what_was_there(home: Path, proxy: Any) -> None:
    path = llm_file(home)
    own = path.read_text()
    path.chmod(0o600)
    assert setup("llm", "--output", str(path), "--no-try").exit_code == 0
    assert path.read_text() == own + LLM_HERE
    backup = home / "models.yaml.before-horde-proxy"
    assert (backup.read_text(), backup.stat().st_mode & 0o777) == (own, 0o600)
    assert path.stat().st_mode & 0o777 == 0o600
    setup("llm", "--output", str(path), "--no-try")
    assert backup.read_text() == own
    result = setup("llm", "--output", str(path), "--restore")
    assert result.stdout == f"{path}: restored\n"
    assert (path.read_text(), names_in(home)) == (own, ["models.yaml"])
    assert path.stat().st_mode & 0o777 == 0o600


def test_restore_deletes_a_file_that_was_not_there(home: Path, proxy: Any) -> None:
    setup("codex", "--no-try")
    folder = home / ".codex"
    assert names_in(folder) == ["horde.config.toml", "horde.config.toml.horde-proxy-record"]
    assert "deleted, since there was none before setup" in setup("codex", "--restore").stdout
    assert names_in(folder) == []


@pytest.mark.parametrize("again", [False, True])
def test_restore_keeps_what_was_changed_after_setup(home: Path, proxy: Any, again: bool) -> None:
    path = llm_file(home)
    own = path.read_text()
    words = ("llm", "--output", str(path), "--no-try")
    setup(*words)
    changed = path.read_text().replace("other", "changed")
    path.write_text(changed)
    if again:
        setup(*words, "--model", "koboldcpp/Big-70B")
    setup("llm", "--output", str(path), "--restore")
    assert path.read_text() == own
    assert (home / "models.yaml.before-restore").read_text() == changed


def test_restore_needs_a_setup_before_it(home: Path) -> None:
    path = llm_file(home)
    result = setup("llm", "--output", str(path), "--restore")
    assert result.exit_code == 1
    assert "setup has not changed it, so nothing is restored" in result.stderr


def test_a_symbolic_link_stays_one(home: Path, proxy: Any) -> None:
    target = llm_file(home)
    own = target.read_text()
    link = home / "link.yaml"
    link.symlink_to(target)
    setup("llm", "--output", str(link), "--no-try")
    assert link.is_symlink() and target.read_text() == own + LLM_HERE
    setup("llm", "--output", str(link), "--restore")
    assert link.is_symlink() and target.read_text() == own
    assert names_in(home) == ["link.yaml", "models.yaml"]


@pytest.mark.parametrize("content", [b"{a: 1}\n", b"\xff\xfe"])
def test_a_file_that_cannot_be_read_is_unchanged(home: Path, proxy: Any, content: bytes) -> None:
    path = home / "models.yaml"
    path.write_bytes(content)
    result = setup("llm", "--output", str(path))
    assert (result.exit_code, path.read_bytes()) == (1, content)
    assert f"{path} is unchanged: " in result.stderr
    assert names_in(home) == ["models.yaml"]


def test_a_client_without_a_file_gets_steps(home: Path, proxy: Any) -> None:
    proxy.post("http://proxy.invalid/api/chat", json={"message": {"content": "Hello."}})
    lines = setup("home-assistant").stdout.splitlines()
    assert lines[1] == "2. URL: http://proxy.invalid"
    assert lines[-1] == "It answers: Hello."
    assert "changes no file of home-assistant" in setup("home-assistant", "--restore").stderr


def test_a_named_model_is_one_that_the_proxy_knows(home: Path, proxy: Any) -> None:
    proxy.get(f"{BASE}/models/auto", json={**BIG, "context_length": 65536})
    proxy.get(f"{BASE}/models/none", json={"error": {"message": "No such model."}}, status=404)
    text = setup("codex", "--print", "--model", "auto").stdout
    assert 'model = "auto"\n' in text and "model_context_window = 65536\n" in text
    assert "No such model." in setup("codex", "--print", "--model", "none").stderr


def test_a_client_that_needs_more_context_says_so(home: Path) -> None:
    with responses.RequestsMock() as mock:
        mock.get(f"{BASE}/models", json={"data": [{**BIG, "context_length": 4096}]})
        result = setup("codex", "--print")
    assert result.exit_code == 1
    assert "codex needs a model with a context of at least 32768 tokens" in result.stderr
    assert "name it with --model" in result.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "Name a client: opencode, codex"),
        (("codex", "--restore", "--print"), "--restore takes neither --print nor --model"),
        (("emacs",), "'emacs' is not one of 'opencode', 'codex'"),
    ],
)
def test_a_wrong_call_is_explained(words: tuple[str, ...], message: str) -> None:
    result = setup(*words)
    assert result.exit_code == 2
    assert message in result.stderr
