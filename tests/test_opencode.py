"""opencode.json from the available models, with the user's own settings kept."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import responses
from click.testing import CliRunner, Result

from horde_proxy import opencode
from horde_proxy.commands.cli import main

BASE = "http://proxy.invalid/v1"


def model(name: str, context: int = 16384, **horde: float) -> dict[str, Any]:
    told = {"workers": 1, "threads": 1, "eta": 0, "tokens_per_second": 10.0, "max_length": 512}
    return {"id": name, "context_length": context, "horde": {**told, **horde}}


BIG = model("koboldcpp/Big-70B", 32768, threads=5, tokens_per_second=8.0)
SMALL = model("koboldcpp/Small-3B", 16384, threads=1, tokens_per_second=60.0)
SHORT = model("Short-7B", 4096, threads=9)


def written(text: str, models: list[dict[str, Any]] | None = None) -> str:
    return opencode.updated(text, models or [BIG, SMALL], BASE, "none")


def test_a_fresh_file_has_all_that_opencode_needs() -> None:
    assert json.loads(written("{}")) == {
        "$schema": "https://opencode.ai/config.json",
        "provider": {
            "horde": {
                "npm": "@ai-sdk/openai-compatible",
                "name": "AI Horde",
                "options": {
                    "baseURL": BASE,
                    "apiKey": "none",
                    "timeout": False,
                    "headerTimeout": 900000,
                    "chunkTimeout": 900000,
                },
                "models": {
                    "koboldcpp/Big-70B": {
                        "name": "koboldcpp/Big-70B",
                        "tool_call": True,
                        "cost": {"input": 0, "output": 0},
                        "limit": {"context": 32768, "output": 8192},
                    },
                    "koboldcpp/Small-3B": {
                        "name": "koboldcpp/Small-3B",
                        "tool_call": True,
                        "cost": {"input": 0, "output": 0},
                        "limit": {"context": 16384, "output": 4096},
                    },
                },
            }
        },
        "model": "horde/koboldcpp/Big-70B",
        "small_model": "horde/koboldcpp/Small-3B",
    }


def test_the_users_own_settings_and_comments_stay() -> None:
    before = (
        '{\n  // mine\n  "theme": "dark",\n  "provider": {"other": {"npm": "x"}},\n'
        '  "model": "other/best", // I like it\n}\n'
    )
    after = written(before)
    for part in (
        "// mine",
        '"theme": "dark"',
        '"other": {"npm": "x"}',
        "// I like it",
        '"model": "other/best"',
        '"small_model": "horde/koboldcpp/Small-3B"',
    ):
        assert part in after


def test_a_default_of_ours_that_is_still_available_stays() -> None:
    before = '{"model": "horde/koboldcpp/Small-3B"}'
    assert '"model": "horde/koboldcpp/Small-3B"' in written(before)


def test_a_default_of_ours_that_is_gone_is_replaced() -> None:
    assert '"model": "horde/koboldcpp/Big-70B"' in written('{"model": "horde/gone"}')


def test_a_second_update_changes_nothing() -> None:
    once = written('{"theme": "dark"}')
    assert written(once) == once


def test_a_default_without_the_tag_of_its_model_gets_it() -> None:
    models = [BIG, model("llama3.2:latest"), model("qwen3")]
    text = '{"model": "horde/llama3.2", "small_model": "horde/qwen3:latest"}'
    document = json.loads(written(text, models))
    assert (document["model"], document["small_model"]) == ("horde/llama3.2:latest", "horde/qwen3")


def test_models_that_are_gone_leave_the_provider() -> None:
    assert "Big-70B" not in written(written("{}"), [SMALL])


def test_small_contexts_are_left_out() -> None:
    found = opencode.capable([SMALL, SHORT, BIG], 8192)
    assert [each["id"] for each in found] == ["koboldcpp/Big-70B", "koboldcpp/Small-3B"]


@pytest.mark.parametrize(
    ("context", "is_hordes", "is_capable"),
    [(8191, True, False), (8192, True, True), (12287, False, False), (12288, False, True)],
)
def test_by_default_models_are_listed_in_which_opencode_can_work(
    context: int, is_hordes: bool, is_capable: bool
) -> None:
    small = model("Small-7B", context)
    small = small if is_hordes else {**small, "horde": None}
    assert opencode.capable([small]) == ([small] if is_capable else [])


@pytest.mark.parametrize("context", [None, "8k", float("inf"), float("nan"), [], -1, True])
def test_a_context_that_is_not_a_number_counts_as_none(context: Any) -> None:
    assert opencode.capable([{"id": "x", "context_length": context}, SMALL], 8192) == [SMALL]
    entry = opencode.provider([{"id": "x", "context_length": context}], BASE, "none")["models"]["x"]
    assert entry["limit"] == {"context": 0, "output": 0}


# What each of six servers tells of its model.
OF_SIX_SERVERS: list[dict[str, Any]] = [
    {"id": "vllm", "max_model_len": 32768},
    {"id": "llama.cpp", "meta": {"n_ctx": 16384, "n_ctx_train": 131072}},
    {"id": "groq", "context_window": 131072, "max_completion_tokens": 1024},
    {
        "id": "mistral",
        "max_context_length": 65536,
        "capabilities": {"completion_chat": True, "function_calling": True, "vision": True},
    },
    {"id": "openrouter", "context_length": 200000, "pricing": {"prompt": "0.000003"}},
    {"id": "ollama", "meta": {"n_ctx_train": 40960}, "capabilities": ["completion", "thinking"]},
]


def test_the_models_of_all_servers_appear_with_their_limits() -> None:
    found = opencode.capable(OF_SIX_SERVERS, 8192)
    models = opencode.provider(found, BASE, "none")["models"]
    assert {name: entry["limit"] for name, entry in models.items()} == {
        "groq": {"context": 131072, "output": 1024},
        "llama.cpp": {"context": 16384, "output": 4096},
        "mistral": {"context": 65536, "output": 8192},
        "ollama": {"context": 40960, "output": 8192},
        "openrouter": {"context": 200000, "output": 8192},
        "vllm": {"context": 32768, "output": 8192},
    }
    assert [name for name, entry in models.items() if not entry["tool_call"]] == ["ollama"]
    assert [name for name, entry in models.items() if entry.get("reasoning")] == ["ollama"]
    assert models["mistral"]["modalities"] == {"input": ["text", "image"], "output": ["text"]}
    assert models["mistral"]["attachment"] is True


@pytest.mark.parametrize(
    "other",
    [
        {"id": "nomic-embed-text:latest"},
        {"id": "bge-reranker-v2-m3"},
        {"id": "whisper-large-v3"},
        {"id": "FLUX.1-schnell"},
        {"id": "gpt-4o-mini-tts"},
        {"id": "mine", "capabilities": ["embedding"]},
        {"id": "mine", "type": "embeddings"},
        {"id": "mine", "architecture": {"output_modalities": ["image"]}},
    ],
)
def test_models_that_do_not_chat_are_left_out(other: dict[str, Any]) -> None:
    assert opencode.capable([{**other, "context_length": 32768}, SMALL], 8192) == [SMALL]
    assert opencode.left_out([other], 8192) == ""


@pytest.mark.parametrize(
    ("pricing", "cost"),
    [
        ({"prompt": "0", "completion": "0"}, {"input": 0, "output": 0}),
        ({"prompt": "0.000003", "completion": "0.000015"}, {"input": 3.0, "output": 15.0}),
        ({"prompt": "free", "completion": "0"}, None),
        ({"prompt": "-1", "completion": "-1"}, None),
        ({"input": 0.88, "output": 0.88}, None),
        (None, None),
    ],
)
def test_a_cost_is_what_the_server_charges(pricing: Any, cost: Any) -> None:
    other = {"id": "x", "context_length": 16384, "pricing": pricing}
    entry = opencode.provider([other], BASE, "none")["models"]["x"]
    assert entry.get("cost") == cost


@pytest.mark.parametrize("horde", [None, [], {"eta": "soon", "threads": None, "tools": 3}])
def test_a_model_of_another_server_may_have_any_horde_field(horde: Any) -> None:
    other = {"id": "x", "context_length": 16384, "horde": horde}
    settings = json.loads(written("{}", [other]))
    assert (settings["model"], settings["small_model"]) == ("horde/x", "horde/x")


def test_a_file_is_replaced_whole_and_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "opencode.json"
    assert opencode.write(path, "{}")
    os.chmod(path, 0o600)
    assert opencode.write(path, '{"a": 1}')
    assert (path.read_text(), path.stat().st_mode & 0o777) == ('{"a": 1}', 0o600)
    assert [each.name for each in path.parent.iterdir()] == ["opencode.json"]


def test_a_file_that_would_not_change_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "opencode.json"
    path.write_text("{}")
    os.utime(path, (1, 1))
    assert not opencode.write(path, "{}")
    assert path.stat().st_mtime == 1


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real.json").write_text("{}")
    (tmp_path / "opencode.json").symlink_to("real.json")
    opencode.write(tmp_path / "opencode.json", '{"a": 1}')
    assert (tmp_path / "opencode.json").is_symlink()
    assert (tmp_path / "real.json").read_text() == '{"a": 1}'


def test_a_file_that_cannot_be_put_in_place_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "opencode.json"
    path.write_text("{}")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        opencode.write(path, "[]")
    assert [each.name for each in tmp_path.iterdir()] == ["opencode.json"]
    assert path.read_text() == "{}"


def test_a_byte_order_mark_and_line_ends_of_windows_stay(tmp_path: Path) -> None:
    path = tmp_path / "opencode.json"
    path.write_bytes(b'\xef\xbb\xbf{\r\n  "theme": "x" // mine\r\n}\r\n')
    with responses.RequestsMock() as horde:
        horde.get(f"{BASE}/models", json={"data": [BIG]})
        assert run(path).exit_code == 0
        found = path.read_bytes()
        assert "unchanged" in run(path).output
    assert found.startswith(b'\xef\xbb\xbf{\r\n  "theme": "x", // mine\r\n  "$schema": ')
    assert found.count(b"\n") == found.count(b"\r\n") > 20


def run(path: Path, *more: str) -> Result:
    arguments = ["opencode", "--once", "--url", BASE, "--output", str(path), *more]
    return CliRunner().invoke(main, arguments)


@responses.activate
def test_the_command_writes_the_file_once(tmp_path: Path) -> None:
    responses.get(f"{BASE}/models", json={"data": [BIG, SMALL, SHORT]})
    path = tmp_path / "opencode.json"
    assert run(path, "--key", "{env:KEY}", "--base-url", "https://ai.home/v1").output == (
        f"{path}: 2 models\n"
    )
    options = json.loads(path.read_text())["provider"]["horde"]["options"]
    assert (options["apiKey"], options["baseURL"]) == ("{env:KEY}", "https://ai.home/v1")
    assert "unchanged" in run(path, "--key", "{env:KEY}", "--base-url", "https://ai.home/v1").output


@responses.activate
def test_opencode_reads_the_key_that_is_set_from_the_same_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    responses.get(f"{BASE}/models", json={"data": [BIG]})
    path = tmp_path / "opencode.json"

    def key() -> str:
        assert run(path).exit_code == 0
        return str(json.loads(path.read_text())["provider"]["horde"]["options"]["apiKey"])

    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert key() == "none"
    monkeypatch.setenv("OPENAI_API_KEY", "sk-a-key-of-a-client-0123")
    assert key() == "{env:OPENAI_API_KEY}"
    assert "sk-a-key" not in path.read_text()
    # A timer may run without the variable; what is in the file then stays.
    monkeypatch.delenv("OPENAI_API_KEY")
    assert key() == "{env:OPENAI_API_KEY}"


@responses.activate
def test_a_base_url_alone_is_also_the_proxy_to_ask(tmp_path: Path) -> None:
    responses.get("https://ai.home/v1/models", json={"data": [BIG]})
    path = tmp_path / "opencode.json"
    command = ["opencode", "--once", "--base-url", "https://ai.home/v1", "--output", str(path)]
    assert CliRunner().invoke(main, command).output == f"{path}: 1 models\n"
    assert json.loads(path.read_text())["provider"]["horde"]["options"]["baseURL"] == (
        "https://ai.home/v1"
    )


@pytest.mark.parametrize(
    "answer",
    [
        {"status": 502, "json": {"error": {"message": "The horde cannot be reached."}}},
        {"json": {"data": []}},
        {"json": {"data": [SHORT]}},
    ],
)
@responses.activate
def test_without_models_the_last_good_file_stays(tmp_path: Path, answer: dict[str, Any]) -> None:
    responses.get(f"{BASE}/models", **answer)
    path = tmp_path / "opencode.json"
    path.write_text('{"mine": 1}')
    result = run(path)
    assert result.exit_code == 1
    assert path.read_text() == '{"mine": 1}'


@responses.activate
def test_models_of_unknown_context_are_named(tmp_path: Path) -> None:
    others = [{"id": f"gpt-{number}"} for number in range(8)]
    responses.get(f"{BASE}/models", json={"data": [BIG, *others]})
    path = tmp_path / "opencode.json"
    said = "; left out, of unknown context: gpt-0, gpt-1, gpt-2, gpt-3, gpt-4 and 3 more\n"
    assert run(path).output == f"{path}: 1 models{said}"
    assert run(path).output == f"{path}: 1 models, unchanged{said}"
    assert run(path, "--min-context", "0").output == f"{path}: 9 models\n"


@responses.activate
def test_an_empty_file_is_filled(tmp_path: Path) -> None:
    responses.get(f"{BASE}/models", json={"data": [BIG]})
    path = tmp_path / "opencode.json"
    path.write_text("\n")
    assert run(path).exit_code == 0
    assert "horde" in json.loads(path.read_text())["provider"]


@responses.activate
def test_a_link_that_leads_back_to_itself_is_named(tmp_path: Path) -> None:
    responses.get(f"{BASE}/models", json={"data": [BIG]})
    path = tmp_path / "opencode.json"
    path.symlink_to(path)
    result = run(path)
    assert result.exit_code == 1
    assert f"Error: {path}: " in result.output


@responses.activate
def test_a_broken_file_is_named_and_stays(tmp_path: Path) -> None:
    responses.get(f"{BASE}/models", json={"data": [BIG]})
    path = tmp_path / "opencode.json"
    path.write_text('{"mine": 1')
    result = run(path)
    assert result.exit_code == 1
    assert "not valid JSON in line 1" in result.output
    assert path.read_text() == '{"mine": 1'


def test_half_a_surrogate_pair_is_written_as_an_escape(tmp_path: Path) -> None:
    file = tmp_path / "opencode.json"
    assert opencode.write(file, '{"name": "a\ud800"}')
    assert file.read_bytes() == b'{"name": "a\\ud800"}'
    assert json.loads(file.read_bytes()) == {"name": "a\ud800"}
    assert not opencode.write(file, '{"name": "a\ud800"}')


def test_models_whose_workers_the_settings_leave_out_are_left_out() -> None:
    excluded = model("koboldcpp/Out-70B", 32768, threads=9)
    excluded["horde"] |= {"available": False, "reason": "the settings leave out its workers."}
    assert opencode.capable([BIG, excluded, SMALL], 8192) == [BIG, SMALL]
