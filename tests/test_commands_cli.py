"""The command line, as far as it goes without a server of its own; the rest is in live/."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import responses
from click.testing import CliRunner, Result

from horde_proxy import create_app
from horde_proxy.commands import demo
from horde_proxy.commands.cli import main
from horde_proxy.config import Config, load
from horde_proxy.ledger import ClientKey
from horde_proxy.ledger.database import open_ledger
from horde_proxy.upstreams.sessions import new_session
from horde_proxy.worker import model_file
from horde_proxy.worker.horde import HordeConnection, WorkerIdentity
from horde_proxy.worker.model_file import ModelFileError

BASE = "http://proxy.invalid/v1"


def run(*arguments: str, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(main, arguments, env=env)


def sse(*events: Any) -> str:
    return "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"


def delta(text: str, finish_reason: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish_reason}]}


@pytest.mark.parametrize("command", ["serve", "demo", "chat", "models", "worker", "model"])
def test_every_command_explains_itself(command: str) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    assert result.output.startswith("Usage:")


def test_a_wrong_setting_stops_the_start() -> None:
    result = run("serve", env={"HORDE_PROXY_SERVER__PLACES": "0"})
    assert result.exit_code == 78
    assert "setting server.places = '0' from environment variable" in result.output


@responses.activate
def test_chat_prints_the_answer_of_the_first_model_for_texts() -> None:
    responses.get(
        f"{BASE}/models", json={"data": [{"id": "p", "type": "image"}, {"id": "a/b"}, {"id": "c"}]}
    )
    sent = responses.post(f"{BASE}/chat/completions", body=sse(delta("Hel"), delta("lo")))
    result = run("chat", "Hi", "--url", BASE)
    assert result.output == "Hello\n"
    assert json.loads(sent.calls[0].request.body) == {
        "model": "a/b",
        "stream": True,
        "messages": [{"role": "user", "content": "Hi"}],
    }


@responses.activate
def test_a_model_cannot_command_the_terminal() -> None:
    responses.get(f"{BASE}/models", json={"data": [{"id": "a/b"}]})
    said = "1\n\t\x1b]0;x\x07\x9b2J\u202e\ud800 👩\u200d💻 می\u200cخواهم\r\n"
    responses.post(f"{BASE}/chat/completions", body=sse(delta(said), delta("2\rab")))
    assert run("chat", "Hi", "--url", BASE).output == (
        "1\n\t\\x1b]0;x\\x07\\x9b2J\\u202e� 👩\u200d💻 می\u200cخواهم\n2\\rab\n"
    )


@responses.activate
def test_an_error_cannot_command_the_terminal() -> None:
    error = {"error": {"message": "home:\n\x1b[2Jno\ud800"}}
    responses.get(f"{BASE}/models", status=502, json=error)
    result = run("models", "--url", BASE)
    assert result.stderr.endswith("Error: home:\n\\x1b[2Jno\\ud800\n")


@responses.activate
def test_json_of_a_name_with_del_is_still_json() -> None:
    responses.get(f"{BASE}/models", json={"data": [{"id": "a\x7fb\u202e"}]})
    responses.get(f"{BASE}/horde/models", status=404)
    output = run("models", "--json", "--url", BASE).stdout
    assert output.replace("\n", "").isprintable()
    assert json.loads(output)[0]["model"] == "a\x7fb\u202e"


def test_the_commands_print_in_one_place() -> None:
    room = Path(demo.__file__).parent
    printing = ("click.echo(", "click.secho(", "print(", "click.echo,")
    assert [
        path.name
        for path in sorted(room.glob("*.py"))
        if any(call in path.read_text() for call in printing)
    ] == ["console.py"]


def test_the_demos_first_chat_can_be_pasted_whatever_the_model_is_called() -> None:
    name = "a'; touch /tmp/x; '$(id)`id`"
    _, line = demo._first_chat("http://127.0.0.1:8080", [name])
    *_, option, body = shlex.split(line)
    assert (option, json.loads(body)["model"]) == ("-d", name)


@responses.activate
def test_chat_says_that_an_answer_was_cut() -> None:
    responses.post(f"{BASE}/chat/completions", body=sse(delta("Hel", "length")))
    result = run("chat", "Hi", "--model", "m", "--url", BASE)
    assert "(cut off at" in result.stderr


@responses.activate
def test_chat_fails_with_the_proxys_own_words() -> None:
    error = {"error": {"message": "No such model.", "type": "x", "param": None, "code": None}}
    responses.post(f"{BASE}/chat/completions", status=404, json=error)
    result = run("chat", "Hi", "--model", "m", "--url", BASE)
    assert (result.exit_code, result.output) == (1, "Error: No such model.\n")


@responses.activate
def test_for_a_refused_key_its_variable_is_named() -> None:
    error = {"error": {"message": "Send a key.", "type": "x", "param": None, "code": None}}
    responses.get(f"{BASE}/models", status=401, json=error)
    result = run("models", "--url", BASE)
    assert "Error: Send a key. This command sends the key that OPENAI_API_KEY" in result.stderr


@responses.activate
def test_chat_fails_when_the_stream_does() -> None:
    error = {"error": {"message": "Late.", "type": "x", "param": None, "code": None}}
    responses.post(f"{BASE}/chat/completions", body=sse(delta("Hel"), error))
    result = run("chat", "Hi", "--model", "m", "--url", BASE)
    assert result.exit_code == 1
    assert "Hel" in result.output
    assert "Error: Late." in result.output


@responses.activate
@pytest.mark.parametrize(
    "body",
    [
        sse({**delta("Hello"), "error": None}, {"choices": [], "usage": {"total_tokens": 3}}),
        sse(delta("Hello")).replace("data: ", "data:"),
        json.dumps({"choices": [{"message": {"content": "Hello"}, "finish_reason": "eos"}]}),
        sse({"choices": [{"delta": {"content": [{"type": "text", "text": "Hello"}]}}]}),
    ],
)
def test_chat_reads_what_the_proxy_passes_on_from_any_server(body: str) -> None:
    responses.post(f"{BASE}/chat/completions", body=body)
    assert run("chat", "Hi", "--model", "m", "--url", BASE).output == "Hello\n"


@responses.activate
def test_chat_says_that_an_answer_broke_off() -> None:
    body = sse(delta("Hel")).removesuffix("data: [DONE]\n\n")
    responses.post(f"{BASE}/chat/completions", body=body)
    result = run("chat", "Hi", "--model", "m", "--url", BASE)
    assert (result.exit_code, "Error: it broke the answer off" in result.output) == (1, True)


@responses.activate
def test_an_unreachable_proxy_is_named() -> None:
    result = run("models", "--url", BASE)
    assert result.exit_code == 1
    assert f"no proxy answers at {BASE}" in result.output


@responses.activate
def test_models_are_listed_in_columns() -> None:
    responses.get(
        f"{BASE}/models",
        json={
            "data": [
                {
                    "id": "a/b",
                    "context_length": 4096,
                    "horde": {"workers": 2, "queued_tokens": 80.0, "tokens_per_second": 12.34},
                }
            ]
        },
    )
    assert run("models", "--url", "proxy.invalid/v1").stdout.splitlines()[1].split() == [
        "a/b",
        "2",
        "4096",
        "80",
        "12.3",
    ]


@pytest.mark.parametrize(("arguments", "status"), [(["models"], 0), (["chat", "Hi"], 1)])
@responses.activate
def test_without_models_the_endpoints_route_is_named(arguments: list[str], status: int) -> None:
    responses.get(f"{BASE}/models", json={"data": []})
    result = run(*arguments, "--url", BASE)
    assert result.exit_code == status
    assert f"no models are available right now; {BASE}/endpoints says more" in result.stderr


def test_a_worker_needs_a_key() -> None:
    result = run(
        "worker", "--horde", "http://h.invalid", "--backend", "echo", env={"AI_HORDE_API_KEY": ""}
    )
    assert result.exit_code != 0


def test_a_worker_requires_a_url_with_a_scheme() -> None:
    """Without its scheme it would try again for ever."""
    result = run("worker", "--horde", "127.0.0.1:8080", "--backend", "echo", "--api-key", "k")
    assert (result.exit_code, "write it with http:// or https://" in result.stderr) == (2, True)


@pytest.mark.parametrize(
    ("horde", "proxies"),
    [
        ("https://horde.example", {"http": "http://p:3128", "https": "http://p:3128"}),
        ("http://127.0.0.1:8080", {}),
    ],
)
@pytest.mark.parametrize("by", ["option", "variable"])
def test_a_worker_reaches_a_far_horde_through_the_proxy_that_is_named(
    monkeypatch: pytest.MonkeyPatch, horde: str, proxies: dict[str, str], by: str
) -> None:
    sessions = []

    class Recorded:
        def __init__(self, identities: list[WorkerIdentity], *_: Any, **__: Any) -> None:
            horde = HordeConnection(identities[0], clock=lambda: 0.0)
            sessions.append(horde.with_proxy(new_session()))

        def run(self) -> None:
            """No job is done."""

    monkeypatch.setattr("horde_proxy.commands.worker.Bridge", Recorded)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    name = "http://p:3128"
    option = ["--proxy-url", name] if by == "option" else []
    env = {} if option else {"HORDE_PROXY_SERVER__PROXY_URL": name}
    arguments = ["worker", "--horde", horde, "--backend", "echo", "--api-key", "k", *option]
    assert run(*arguments, env={**env, "HTTP_PROXY": "http://another:1"}).exit_code == 0
    assert [session.proxies for session in sessions] == [proxies]
    assert sessions[0].trust_env is False


def test_serve_warns_of_a_proxy_that_is_not_read(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Idle:
        def __init__(self, *_: Any) -> None:
            """Nothing is served."""

        def run(self) -> None:
            """Returns at once."""

    monkeypatch.setattr("horde_proxy.commands.serve.Server", Idle)
    monkeypatch.setattr("horde_proxy.logs.configure", lambda style: None)
    for name in ("HTTP_PROXY", "http_proxy", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTPS_PROXY", "http://user:secret@proxy:3128")
    horde = {"HORDE_PROXY_PRIVATE_HORDE__ENABLED": "true"}
    assert run("serve", env=horde).exit_code == 0
    warning = "HTTPS_PROXY is not read; set server.proxy_url to call through a proxy"
    assert caplog.messages == [warning]
    assert run("serve", env={**horde, "HORDE_PROXY_SERVER__PROXY_URL": "http://p:1"}).exit_code == 0
    assert caplog.messages == [warning]


def test_a_worker_whose_model_is_missing_says_so() -> None:
    result = run(
        "worker", "--horde", "http://h.invalid", "--backend", "/nowhere.gguf", "--api-key", "k"
    )
    assert result.exit_code == 1


def test_a_failed_download_of_the_model_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(report: Any) -> None:
        raise ModelFileError("no network")

    monkeypatch.setattr("horde_proxy.worker.model_file.install", fail)
    result = run("model", "install")
    assert (result.exit_code, result.output) == (1, "Error: no network\n")


def test_the_demos_first_picture_can_be_pasted() -> None:
    [line] = demo._first_image("http://127.0.0.1:8080", ["horde-proxy/painter"])
    assert line.endswith('image "a fox in snow" -o fox.png --url http://127.0.0.1:8080/v1')
    assert demo._first_image("http://127.0.0.1:8080", []) == []


def test_the_demo_takes_a_given_model() -> None:
    assert demo.choose_backend(__file__, print) == __file__
    with pytest.raises(demo.DemoError, match="there is no model file /nowhere.gguf"):
        demo.choose_backend("/nowhere.gguf", print)


def test_the_demos_key_is_as_long_as_horde_sdk_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = []

    def stop(settings: Config, kept: demo.KeptHorde) -> dict[str, str]:
        keys.append(kept.key)
        raise demo.DemoError("enough")

    monkeypatch.setattr(demo, "_check_bind", lambda bind: None)
    monkeypatch.setattr(demo, "_variables", stop)
    with pytest.raises(demo.DemoError, match="enough"):
        demo.run(load(environ={}), None, [], print)
    assert len(keys[0]) == 22


def test_a_demo_that_is_kept_finds_its_horde_and_its_key_again(tmp_path: Path) -> None:
    folder = tmp_path / "family" / "horde"
    kept = demo.keep_in(load(environ={}), str(folder))
    assert kept.database == f"sqlite:///{folder}/horde.db"
    assert kept.answers == f"sqlite:///{folder}/store.db"
    assert kept.history == f"sqlite:///{folder}/history.db"
    assert len(kept.key) == 22
    assert demo.keep_in(load(environ={}), str(folder)) == kept
    assert (folder / "owner.key").stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700
    private = {"private_horde": {"api_key": "a-key-of-the-settings"}}
    assert demo.keep_in(load(environ={}, flags=private), str(folder)).key == "a-key-of-the-settings"


def test_a_demo_says_where_it_cannot_keep_its_horde(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(demo.DemoError, match="cannot keep its horde in .*file/x: Not a directory"):
        demo.keep_in(load(environ={}), str(tmp_path / "file" / "x"))


def test_the_demo_listens_on_no_unix_socket() -> None:
    with pytest.raises(demo.DemoError, match="listen"):
        demo._check_bind("unix:/run/x.sock")


def test_the_demo_without_a_runner_uses_the_toy_and_says_how_to_get_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[str] = []
    monkeypatch.setattr(demo, "can_run_gguf", lambda: False)
    assert demo.choose_backend(None, said.append) == "ngram"
    [line] = said
    assert line.startswith("No runner for a real model here, so a toy answers. To get one: ")
    assert line.endswith('-m pip install ".[local]"')


def test_the_demo_fetches_the_model_when_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[Any] = []
    monkeypatch.setattr(demo, "can_run_gguf", lambda: True)
    monkeypatch.setattr(model_file, "installed", lambda: None)
    monkeypatch.setattr(model_file, "install", fetched.append)
    assert demo.choose_backend(None, print) == "smollm2"
    assert fetched == [print]


def test_the_demo_uses_the_toy_when_the_download_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(report: Any) -> None:
        raise ModelFileError("no network")

    said: list[str] = []
    monkeypatch.setattr(demo, "can_run_gguf", lambda: True)
    monkeypatch.setattr(model_file, "installed", lambda: None)
    monkeypatch.setattr(model_file, "install", fail)
    assert demo.choose_backend(None, said.append) == "ngram"
    assert said == ["no network\nSo a toy answers. For the real model: horde-proxy model install"]


def keys(tmp_path: Path, *arguments: str, more: str = "") -> Any:
    settings = tmp_path / "a.toml"
    settings.write_text(
        f'[access]\nmode = "keys"\ndatabase = "sqlite:///{tmp_path}/ledger.db"\n{more}'
    )
    return run("keys", *arguments, "--config", str(settings))


def test_a_key_is_shown_once_listed_with_its_limits_and_revoked(tmp_path: Path) -> None:
    added = keys(tmp_path, "add", "ann", "--models", "gpt-*, o1", "--requests-per-minute", "5")
    plain = added.stdout.strip()
    assert plain.startswith("hp-")
    listed = keys(tmp_path, "list").output
    assert "5 requests a minute; models gpt-*, o1" in listed
    assert plain not in listed
    assert plain.encode() not in (tmp_path / "ledger.db").read_bytes()
    assert keys(tmp_path, "revoke", "ann").output == "The key of ann is revoked.\n"
    assert "revoked 20" in keys(tmp_path, "list").output


def test_keys_of_the_settings_are_listed_first_and_not_shown(tmp_path: Path) -> None:
    more = """
    [access.keys]
    laptop = "laptop-key-0123456789"
    tablet = {key = "tablet-key-0123456789", models = ["gpt-*"], admin = true}
    """
    keys(tmp_path, "add", "ann", more=more)
    lines = keys(tmp_path, "list", more=more).output.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["NAME", "laptop", "tablet", "ann"]
    assert lines[1].split() == ["laptop", "in", "the", "settings", "valid", "none"]
    assert lines[2].split() == ["tablet", "in", "the", "settings", "admin", "models", "gpt-*"]
    assert "0123456789" not in "".join(lines)


def test_a_key_is_bound_to_places(tmp_path: Path) -> None:
    assert keys(tmp_path, "add", "ann", "--places", "private, HOME").exit_code == 0
    assert "places home, private" in keys(tmp_path, "list").output
    ledger = open_ledger(f"sqlite:///{tmp_path}/ledger.db")
    [ann] = ledger.valid_keys().values()
    ledger.close()
    assert ann.places == ("home", "private")


def test_a_name_in_use_and_an_unknown_one_are_refused(tmp_path: Path) -> None:
    keys(tmp_path, "add", "ann")
    again = keys(tmp_path, "add", "ann")
    assert (again.exit_code, "The name `ann` is in use" in again.output) == (1, True)
    unknown = keys(tmp_path, "revoke", "bob")
    assert (unknown.exit_code, unknown.output) == (1, "Error: there is no valid key 'bob'\n")


def test_a_stored_key_with_a_name_of_an_older_release_works_and_can_be_revoked(
    tmp_path: Path,
) -> None:
    assert keys(tmp_path, "add", "a" * 64).exit_code == 0
    assert keys(tmp_path, "add", "ann@example.com").exit_code == 0
    old = "ann's old phone"
    [database] = tmp_path.rglob("*.db")
    ledger = open_ledger(f"sqlite:///{database}")
    ledger.add_key("digest", ClientKey(old))
    assert ledger.valid_keys()["digest"].name == old
    assert old in keys(tmp_path, "list").stdout
    assert keys(tmp_path, "revoke", old).exit_code == 0
    assert "digest" not in ledger.valid_keys()
    ledger.close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([""], "a key's name has up to 64 letters, digits and . _ - @, without spaces"),
        ([" ann"], "a key's name has up to 64 letters"),
        (["ann's phone"], "a key's name has up to 64 letters"),
        (["mü"], "a key's name has up to 64 letters"),
        (["a\x1b[31m"], "a key's name has up to 64 letters"),
        (["a" * 65], "a key's name has up to 64 letters"),
        (["anybody"], "requests without a key are counted for 'anybody': choose another name"),
        (["phone"], "[access.keys] has a key 'phone': choose another name"),
        (["ann", "--kudos-per-day", "nan"], "--kudos-per-day nan is not a number of kudos"),
        (
            ["ann", "--places", "home,hoem"],
            "--places: there is no place 'hoem'; the places are home",
        ),
        (["ann", "--weight", "nan"], "--weight nan is not a number of turns"),
        (["ann", "--horde-key", "x\n"], "--horde-key has characters not allowed in an HTTP header"),
    ],
)
def test_a_key_that_the_settings_would_refuse_is_not_made(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    more = f"\n[access.keys]\nphone = '{'k' * 16}'"
    result = keys(tmp_path, "add", *arguments, more=more)
    assert (result.exit_code, message in result.output) == (1, True)
    assert keys(tmp_path, "list").output.count("\n") == 1


def test_keys_are_refused_in_other_access_modes() -> None:
    result = run("keys", "add", "ann")
    assert "keys are used only with access.mode = 'keys'" in result.output


def test_a_made_key_opens_the_proxy_until_it_is_revoked(tmp_path: Path) -> None:
    plain = keys(tmp_path, "add", "ann", "--admin").stdout.strip()
    settings = load(
        str(tmp_path / "a.toml"), environ={}, flags={"private_horde": {"enabled": True}}
    )
    http = create_app(settings).test_client()
    headers = {"Authorization": f"Bearer {plain}"}
    assert http.get("/v1/models", headers=headers).status_code == 200
    assert http.get("/v1/models", headers={"Authorization": "Bearer hp-x"}).status_code == 401
    keys(tmp_path, "revoke", "ann")
    assert create_app(settings).test_client().get("/v1/models", headers=headers).status_code == 401


def offered(name: str, **horde: Any) -> dict[str, Any]:
    return {"id": name, "context_length": 4096, "horde": horde}


def table_of(*arguments: str) -> Result:
    responses.get(
        f"{BASE}/models",
        json={
            "data": [
                offered(
                    "koboldcpp/Small-8B",
                    workers=1,
                    queued_tokens=9.0,
                    tokens_per_second=50.0,
                    expected_seconds=4.2,
                ),
                offered(
                    "Large-70B",
                    workers=3,
                    queued_tokens=80.0,
                    tokens_per_second=12.34,
                    expected_seconds=30.0,
                ),
                {"id": "relayed"},
            ]
        },
    )
    responses.get(
        f"{BASE}/horde/models",
        json={
            "degraded": False,
            "data": [
                {"name": "Small-8B", "usage_stats": {"day": 1, "month": 7, "total": 9}},
            ],
        },
    )
    return run("models", "--url", BASE, *arguments)


@responses.activate
def test_models_of_a_horde_are_listed_with_wait_and_use() -> None:
    found = table_of()
    assert found.stderr == f"Loading the models of {BASE} ...\n"
    assert [line.split() for line in found.stdout.splitlines()] == [
        ["MODEL", "WORKERS", "CONTEXT", "QUEUED", "TOKENS/S", "WAIT/S", "USED/MONTH"],
        ["koboldcpp/Small-8B", "1", "4096", "9", "50.0", "4", "7"],
        ["Large-70B", "3", "4096", "80", "12.3", "30"],
        ["relayed"],
    ]


@responses.activate
def test_the_use_of_a_model_with_a_short_id_is_found_by_its_full_one() -> None:
    model = {**offered("org--Small-8B", workers=1), "full_id": "koboldcpp/org/Small-8B"}
    responses.get(f"{BASE}/models", json={"data": [model]})
    use = {"name": "Small-8B", "usage_stats": {"day": 1, "month": 7, "total": 9}}
    responses.get(f"{BASE}/horde/models", json={"degraded": False, "data": [use]})
    [row] = json.loads(run("models", "--url", BASE, "--json").stdout)
    assert (row["model"], row["used"]) == ("org--Small-8B", 7)


@responses.activate
def test_control_characters_in_names_are_escaped() -> None:
    responses.get(f"{BASE}/models", json={"data": [{"id": "a\x1b[2Jb"}, {"id": "c\ud800"}]})
    responses.get(f"{BASE}/horde/models", status=404, json={})
    found = run("models", "--url", BASE)
    assert found.stdout.splitlines()[1:] == ["a\\x1b[2Jb", "c\\ud800"]


@pytest.mark.parametrize(
    "column,names",
    [
        ("workers", ["Large-70B", "koboldcpp/Small-8B", "relayed"]),
        ("speed", ["koboldcpp/Small-8B", "Large-70B", "relayed"]),
        ("wait", ["koboldcpp/Small-8B", "Large-70B", "relayed"]),
        ("model", ["koboldcpp/Small-8B", "Large-70B", "relayed"]),
        ("used", ["koboldcpp/Small-8B", "Large-70B", "relayed"]),
    ],
)
@responses.activate
def test_models_are_sorted_with_unknown_values_last(column: str, names: list[str]) -> None:
    rows = json.loads(table_of("--json", "--sort", column).stdout)
    assert [row["model"] for row in rows] == names


@responses.activate
def test_models_are_filtered_in_any_case() -> None:
    rows = json.loads(table_of("--json", "--filter", "LARGE").stdout)
    assert rows == [
        {
            "model": "Large-70B",
            "workers": 3,
            "context": 4096,
            "queued": 80.0,
            "speed": 12.34,
            "wait": 30.0,
            "used": None,
        }
    ]


@pytest.mark.parametrize(("given", "tokens"), [({}, "512"), ({"default_max_tokens": 99}, "99")])
def test_the_demos_answers_are_short_unless_settings_say_otherwise(
    given: dict[str, int], tokens: str
) -> None:
    settings = load(environ={}, flags={"horde": given})
    variables = demo._variables(
        settings,
        demo.KeptHorde("memory", "sqlite:////tmp/x/store.db", "sqlite:////tmp/x/history.db", "key"),
    )
    assert variables["HORDE_PROXY_HORDE__DEFAULT_MAX_TOKENS"] == tokens


HISTORY: dict[str, Any] = {
    "object": "list",
    "type": "text",
    "step": "hour",
    "has_more": False,
    "total_count": 2,
    "returned_count": 2,
    "data": [
        {
            "name": "Large-70B",
            "worker_count": 2.5,
            "threads": 3.0,
            "queued": 1234.5,
            "queued_jobs": 4.0,
            "performance": 12.34,
            "first_seen_at": 1_769_857_200,
            "last_seen_at": 1_769_860_800,
            "worker_counts": [None, 4.0, 0.0, 0.1, 2.0],
        },
        {
            "name": "Queued-8B",
            "worker_count": 0.0,
            "threads": 0.0,
            "queued": 80.0,
            "queued_jobs": 1.0,
            "performance": None,
            "first_seen_at": None,
            "last_seen_at": None,
            "worker_counts": [None, 0.0, 0.0, 0.0, 0.0],
        },
    ],
}


@responses.activate
def test_the_history_of_all_models_is_a_table_with_sparklines() -> None:
    responses.get(f"{BASE}/horde/history/models?days=1&step=hour&type=text&limit=200", json=HISTORY)
    assert run("models", "--url", BASE, "--history").stdout.splitlines() == [
        "MODEL      WORKERS  QUEUED  SPEED  LAST SEEN   WORKERS OVER TIME",
        "Large-70B  2.5      1234    12.3   01-31 12 h   █▁▂▅",
        "Queued-8B  0.0      80             never        ▁▁▁▁",
    ]


@responses.activate
def test_the_history_comes_in_pages_and_as_json() -> None:
    first, second = HISTORY["data"]
    url = f"{BASE}/horde/history/models?days=1&step=hour&type=text&limit=200"
    responses.get(url, json={**HISTORY, "data": [first], "has_more": True})
    responses.get(f"{url}&offset=1", json={**HISTORY, "data": [second]})
    answer = json.loads(run("models", "--url", BASE, "--history", "--json").stdout)
    assert (answer["data"], answer["total_count"]) == ([first, second], 2)


@responses.activate
def test_the_history_of_all_models_is_filtered() -> None:
    responses.get(f"{BASE}/horde/history/models", json=HISTORY)
    found = run("models", "--url", BASE, "--history", "--filter", "queued")
    assert [line.split()[0] for line in found.stdout.splitlines()] == ["MODEL", "Queued-8B"]


@responses.activate
def test_the_history_of_one_model_is_told_day_by_day() -> None:
    days = [
        {
            "at": 1_769_817_600 + number * 86400,
            "worker_count": float(number),
            "threads": float(number),
            "queued": 10.0,
            "queued_jobs": 1.0,
            "performance": 9.96,
        }
        for number in range(2)
    ]
    responses.get(
        f"{BASE}/horde/history?days=7&step=day&type=image&model=a%2FBig",
        json={"object": "list", "model": "a/Big", "step": "day", "data": days},
    )
    found = run("models", "--url", BASE, "--history", "a/Big", "--days", "7", "--type", "image")
    assert found.stdout.splitlines() == [
        "DAY         WORKERS  THREADS  QUEUED  SPEED",
        "2026-01-31  0.0      0.0      10      10.0   ▁",
        "2026-02-01  1.0      1.0      10      10.0   █",
    ]


@responses.activate
def test_a_history_without_samples_says_so() -> None:
    responses.get(f"{BASE}/horde/history", json={"model": "x", "step": "hour", "data": []})
    assert run("models", "--url", BASE, "--history", "x").stdout == (
        "No samples of that time: the proxy has not run, or the horde was down.\n"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--days", "3"], "--days is only of use with --history."),
        (["--type", "image"], "--type is only of use with --history."),
        (["--history", "--sort", "wait"], "--sort is only of use without --history."),
    ],
)
def test_an_option_of_models_that_would_be_ignored_is_refused(
    options: list[str], message: str
) -> None:
    result = run("models", "--url", BASE, *options)
    assert (result.exit_code, message in result.stderr) == (2, True)
