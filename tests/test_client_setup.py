"""The configuration files of clients, before and after `horde-proxy setup`."""

from __future__ import annotations

import json
import tomllib
from typing import Any

import pytest

from horde_proxy.client_setup import trial
from horde_proxy.client_setup.contract import ProxyForClient, RefusedFile
from horde_proxy.client_setup.registry import CLIENTS
from horde_proxy.jsonc import JsoncError

BIG: dict[str, Any] = {
    "id": "koboldcpp/Big-70B",
    "context_length": 32768,
    "horde": {"workers": 1, "threads": 5, "eta": 0, "tokens_per_second": 8.0},
}
SMALL: dict[str, Any] = {
    "id": "koboldcpp/Small-3B",
    "context_length": 8192,
    "architecture": {"input_modalities": ["text", "image"], "output_modalities": ["text"]},
}
KEYLESS = ProxyForClient(root="http://127.0.0.1:8080", models=[BIG, SMALL], model=BIG)
KEYED = ProxyForClient(root="http://127.0.0.1:8080", models=[BIG], model=BIG, has_key=True)
SMALL_ONE = ProxyForClient(root="http://127.0.0.1:8080", models=[SMALL], model=SMALL)

CODEX = """\
# horde-proxy setup: begin. Each setup writes these lines anew.
model = "koboldcpp/Big-70B"
model_provider = "horde"
model_context_window = 32768
model_providers.horde.name = "horde-proxy"
model_providers.horde.base_url = "http://127.0.0.1:8080/v1"
model_providers.horde.wire_api = "responses"
model_providers.horde.env_key = "OPENAI_API_KEY"
# horde-proxy setup: end.
"""
LLM = """\
# horde-proxy setup: begin. Each setup writes these lines anew.
- model_id: horde
  model_name: "koboldcpp/Big-70B"
  api_base: "http://127.0.0.1:8080/v1"
  supports_tools: true
  supports_schema: true
# horde-proxy setup: end.
"""
AIDER = """\
# horde-proxy setup: begin. Each setup writes these lines anew.
model: "openai/koboldcpp/Big-70B"
weak-model: "openai/koboldcpp/Big-70B"
openai-api-base: "http://127.0.0.1:8080/v1"
show-model-warnings: false
openai-api-key: none
# horde-proxy setup: end.
"""


def configured(name: str, text: str, proxy: ProxyForClient) -> str:
    configure = CLIENTS[name].configured
    assert configure is not None
    return configure(text, proxy)


def with_files() -> list[str]:
    return [name for name, client in CLIENTS.items() if client.configured]


def test_the_list_has_the_clients_by_name() -> None:
    assert list(CLIENTS) == [
        "opencode",
        "codex",
        "claude",
        "aider",
        "continue",
        "cline",
        "qwen-code",
        "llm",
        "open-webui",
        "sillytavern",
        "home-assistant",
        "vscode",
    ]


@pytest.mark.parametrize("proxy", [KEYLESS, KEYED, SMALL_ONE])
@pytest.mark.parametrize("name", with_files())
def test_a_second_setup_changes_nothing(name: str, proxy: ProxyForClient) -> None:
    text = configured(name, "", proxy)
    assert configured(name, text, proxy) == text


@pytest.mark.parametrize("name", ["opencode", "claude", "cline", "qwen-code", "vscode"])
def test_a_json_file_that_cannot_be_read_is_refused(name: str) -> None:
    with pytest.raises(JsoncError, match="line 1"):
        configured(name, '{"a": 1', KEYLESS)


@pytest.mark.parametrize("name", ["claude", "cline", "qwen-code", "vscode"])
def test_the_rest_of_a_json_file_and_its_comments_stay(name: str) -> None:
    text = '{\r\n  // mine\r\n  "theme": "dark", // ours\r\n  "env": {"A": "1"}\r\n}\r\n'
    after = configured(name, text, KEYLESS)
    assert after.startswith('{\r\n  // mine\r\n  "theme": "dark", // ours\r\n  "env": {"A": "1"')
    assert after.count("\n") == after.count("\r\n")


def test_opencode_reads_the_key_from_the_variable() -> None:
    document = json.loads(configured("opencode", "", KEYED))
    assert document["provider"]["horde"]["options"]["apiKey"] == "{env:OPENAI_API_KEY}"
    assert document["model"] == "horde/koboldcpp/Big-70B"


def test_opencode_begins_with_the_model_that_was_named() -> None:
    named = ProxyForClient(
        root="http://127.0.0.1:8080", models=[BIG], model={**SMALL, "id": "auto"}, is_chosen=True
    )
    document = json.loads(configured("opencode", '{"model": "other/x"}', named))
    assert document["model"] == "horde/auto"
    assert list(document["provider"]["horde"]["models"]) == ["auto", "koboldcpp/Big-70B"]


def test_codex_gets_a_profile_of_its_own() -> None:
    assert configured("codex", "", KEYED) == CODEX
    assert tomllib.loads(CODEX)["model_providers"]["horde"]["wire_api"] == "responses"


def test_codex_reads_no_variable_that_is_not_set() -> None:
    assert "env_key" not in configured("codex", "", KEYLESS)


def test_codex_keeps_the_lines_of_its_user() -> None:
    own = '# mine\napproval_policy = "never"\n\n[tui]\ntheme = "dark"\n'
    assert configured("codex", own, KEYED) == CODEX + "\n" + own
    older = CODEX.replace("32768", "4096")
    assert configured("codex", older + "\n" + own, KEYED) == CODEX + "\n" + own


@pytest.mark.parametrize("text", ["model = ", 'model = "gpt-6"\n'])
def test_codex_refuses_toml_that_is_wrong_or_says_something_else(text: str) -> None:
    with pytest.raises(RefusedFile, match="Delete what your own lines set of model"):
        configured("codex", text, KEYED)


def test_claude_gets_the_key_of_the_variable_and_the_limits_of_the_model() -> None:
    assert json.loads(configured("claude", "", KEYED)) == {
        "apiKeyHelper": "printenv OPENAI_API_KEY || echo none",
        "env": {
            "ANTHROPIC_BASE_URL": "http://127.0.0.1:8080",
            "ANTHROPIC_MODEL": "koboldcpp/Big-70B",
            "ANTHROPIC_DEFAULT_OPUS_MODEL": "koboldcpp/Big-70B",
            "ANTHROPIC_DEFAULT_SONNET_MODEL": "koboldcpp/Big-70B",
            "ANTHROPIC_DEFAULT_HAIKU_MODEL": "koboldcpp/Big-70B",
            "ANTHROPIC_DEFAULT_FABLE_MODEL": "koboldcpp/Big-70B",
            "CLAUDE_CODE_ATTRIBUTION_HEADER": "0",
            "CLAUDE_CODE_MAX_OUTPUT_TOKENS": "1024",
            "CLAUDE_CODE_MAX_CONTEXT_TOKENS": "32768",
            "CLAUDE_CODE_SIMPLE": "0",
        },
    }


def test_claude_is_simple_with_a_small_context() -> None:
    environ = json.loads(configured("claude", "", SMALL_ONE))["env"]
    assert environ["CLAUDE_CODE_SIMPLE"] == "1"
    assert environ["CLAUDE_CODE_MAX_CONTEXT_TOKENS"] == "8192"


def test_aider_gets_a_file_of_its_own_and_keeps_further_lines() -> None:
    assert configured("aider", "", KEYLESS) == AIDER
    own = "# mine\nread:\n  - CONVENTIONS.md\n"
    assert configured("aider", own, KEYLESS) == own + AIDER
    assert configured("aider", own + AIDER + "vim: true\n", KEYLESS) == own + AIDER + "vim: true\n"
    assert "openai-api-key" not in configured("aider", "", KEYED)


@pytest.mark.parametrize("text", ["model: gpt-6\n", "'model': gpt-6\n", "- a\nmodel : x\n"])
def test_a_key_of_ours_in_the_users_lines_is_refused(text: str) -> None:
    with pytest.raises(RefusedFile, match="it sets model already"):
        configured("aider", text, KEYLESS)


@pytest.mark.parametrize("name", ["aider", "continue"])
def test_yaml_that_is_no_mapping_is_refused(name: str) -> None:
    with pytest.raises(RefusedFile, match="line 2 of your own lines"):
        configured(name, "# mine\n{a: 1}\n", KEYLESS)


@pytest.mark.parametrize("name", ["codex", "aider", "continue", "llm"])
def test_a_block_that_lost_its_end_is_refused(name: str) -> None:
    text = configured(name, "", KEYLESS).replace("# horde-proxy setup: end.\n", "")
    with pytest.raises(RefusedFile, match='"# horde-proxy setup: end" is missing'):
        configured(name, text, KEYLESS)


def test_continue_has_all_models_with_their_limits() -> None:
    assert (
        configured("continue", "", KEYLESS)
        == """\
# horde-proxy setup: begin. Each setup writes these lines anew.
name: horde-proxy
version: 1.0.0
schema: v1
models:
  - name: "koboldcpp/Big-70B"
    provider: openai
    model: "koboldcpp/Big-70B"
    apiBase: "http://127.0.0.1:8080/v1"
    apiKey: none
    roles: [chat, edit, apply, summarize]
    capabilities: [tool_use]
    defaultCompletionOptions:
      contextLength: 32768
      maxTokens: 8192
  - name: "koboldcpp/Small-3B"
    provider: openai
    model: "koboldcpp/Small-3B"
    apiBase: "http://127.0.0.1:8080/v1"
    apiKey: none
    roles: [chat, edit, apply, summarize]
    capabilities: [tool_use, image_input]
    defaultCompletionOptions:
      contextLength: 8192
      maxTokens: 2048
# horde-proxy setup: end.
"""
    )
    assert "apiKey: ${{ secrets.OPENAI_API_KEY }}\n" in configured("continue", "", KEYED)


def test_cline_gets_a_folder_of_its_own() -> None:
    assert json.loads(configured("cline", "", KEYED)) == {
        "version": 1,
        "lastUsedProvider": "openai-compatible",
        "modes": {},
        "providers": {
            "openai-compatible": {
                "settings": {
                    "provider": "openai-compatible",
                    "model": "koboldcpp/Big-70B",
                    "baseUrl": "http://127.0.0.1:8080/v1",
                    "maxTokens": 8192,
                    "contextWindow": 32768,
                },
                "updatedAt": "2026-01-01T00:00:00.000Z",
                "tokenSource": "manual",
            }
        },
    }


def test_cline_must_not_keep_a_key_in_place_of_the_variable() -> None:
    keyless = configured("cline", "", KEYLESS)
    assert '"apiKey": "none"' in keyless
    with pytest.raises(RefusedFile, match="which Cline prefers to OPENAI_API_KEY"):
        configured("cline", keyless, KEYED)


def test_qwen_code_gets_a_provider_of_its_own() -> None:
    assert json.loads(configured("qwen-code", "", KEYED)) == {
        "modelProviders": {
            "horde": [
                {
                    "id": "koboldcpp/Big-70B",
                    "name": "koboldcpp/Big-70B (horde-proxy)",
                    "baseUrl": "http://127.0.0.1:8080/v1",
                    "envKey": "OPENAI_API_KEY",
                    "generationConfig": {
                        "timeout": 900000,
                        "contextWindowSize": 32768,
                        "samplingParams": {"max_tokens": 8192},
                    },
                }
            ]
        },
        "providerProtocol": {"horde": "openai"},
        "security": {"auth": {"selectedType": "openai"}},
        "model": {"name": "koboldcpp/Big-70B"},
    }


def test_qwen_code_keeps_the_users_own_model_and_kind_of_account() -> None:
    own = '{"security": {"auth": {"selectedType": "gemini"}}, "model": {"name": "mine"}}'
    document = json.loads(configured("qwen-code", own, KEYLESS))
    assert document["security"] == {"auth": {"selectedType": "gemini"}}
    assert document["model"] == {"name": "mine"}
    assert document["env"] == {"HORDE_PROXY_NO_KEY": "none"}


def test_qwen_code_follows_a_model_of_an_earlier_setup() -> None:
    earlier = configured("qwen-code", "", SMALL_ONE)
    assert json.loads(configured("qwen-code", earlier, KEYED))["model"] == {
        "name": "koboldcpp/Big-70B"
    }


def test_llm_gets_a_model_after_those_of_its_user() -> None:
    assert configured("llm", "", KEYLESS) == LLM
    own = "# mine\n- model_id: other\n  model_name: gpt"
    assert configured("llm", own, KEYLESS) == own + "\n" + LLM
    indented = "  - model_id: other\n    model_name: gpt\n"
    assert configured("llm", indented, KEYLESS) == indented + "".join(
        f"  {line}\n" for line in LLM.splitlines()
    )
    assert "  api_key_name: horde\n" in configured("llm", own, KEYED)
    assert "  vision: true\n" in configured("llm", own, SMALL_ONE)


@pytest.mark.parametrize("text", ["[]\n", "a: 1\n", "- a: 1\n b\nc\n"])
def test_llm_refuses_what_is_no_list_of_lines(text: str) -> None:
    with pytest.raises(RefusedFile, match="is not an item of a list"):
        configured("llm", text, KEYLESS)


def test_llm_refuses_a_second_model_of_the_same_name() -> None:
    with pytest.raises(RefusedFile, match="has a model named horde already"):
        configured("llm", "- model_id: horde\n  model_name: x\n", KEYLESS)


def test_vscode_gets_the_address_of_ollama_where_no_key_is_needed() -> None:
    own = '{\n  // mine\n  "editor.fontSize": 14,\n}\n'
    assert configured("vscode", own, KEYLESS) == (
        '{\n  // mine\n  "editor.fontSize": 14,\n'
        '  "github.copilot.chat.byok.ollamaEndpoint": "http://127.0.0.1:8080"\n}\n'
    )
    assert configured("vscode", own, KEYED) == own
    assert "OpenAI Compatible" in CLIENTS["vscode"].steps(KEYED, "")


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("open-webui", 'export OPENAI_API_BASE_URL="http://127.0.0.1:8080/v1"'),
        ("sillytavern", "3. Custom Endpoint (Base URL): http://127.0.0.1:8080/v1"),
        ("home-assistant", "2. URL: http://127.0.0.1:8080"),
    ],
)
def test_a_client_without_a_file_gets_steps_with_the_address(name: str, line: str) -> None:
    steps = CLIENTS[name].steps(KEYLESS, "")
    assert line in steps.splitlines()
    assert "koboldcpp/Big-70B" in steps
    assert "is reached from this machine only" in steps


def test_open_webui_takes_the_key_from_the_variable() -> None:
    lines = CLIENTS["open-webui"].steps(KEYED, "").splitlines()
    assert 'export OPENAI_API_KEY="$OPENAI_API_KEY"' in lines


def test_each_client_is_tried_in_its_own_api() -> None:
    paths = {name: trial.request(client.api, "m")[0] for name, client in CLIENTS.items()}
    assert {name: path for name, path in paths.items() if path != "/v1/chat/completions"} == {
        "codex": "/v1/responses",
        "claude": "/v1/messages",
        "home-assistant": "/api/chat",
    }


@pytest.mark.parametrize(
    ("api", "answer"),
    [
        ("chat", {"choices": [{"message": {"content": " Hello."}}]}),
        (
            "responses",
            {"output": [{"type": "reasoning"}, {"content": [{"type": "x", "text": "Hello."}]}]},
        ),
        ("messages", {"content": [{"type": "thinking", "thinking": "x"}, {"text": "Hello."}]}),
        ("ollama", {"message": {"content": "Hello.\n"}}),
    ],
)
def test_the_text_of_each_apis_answer_is_found(api: Any, answer: Any) -> None:
    assert trial.answer_text(api, answer) == "Hello."
    assert trial.answer_text(api, {}) == ""
    assert trial.answer_text(api, None) == ""
