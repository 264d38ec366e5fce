"""Settings: where they come from, and what is said of wrong ones."""

from __future__ import annotations

import traceback
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from horde_proxy.config import ConfigError, load


def written(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def refused(*args: object, **kwargs: object) -> str:
    with pytest.raises(ConfigError) as raised:
        load(*args, **kwargs)  # type: ignore[arg-type]
    return str(raised.value)


def test_without_settings_it_is_the_public_horde_on_loopback() -> None:
    found = load(environ={})
    assert found.server.bind == "127.0.0.1:8080"
    assert found.horde.url == "https://aihorde.net/api"
    assert found.horde.api_key == "0000000000"
    assert (found.server.timeout, found.server.stream_timeout) == (280, 1200)


def test_flags_go_before_environment_before_file_before_defaults(tmp_path: Path) -> None:
    path = written(tmp_path / "a.toml", '[server]\nplaces = 10\nbind = "127.0.0.1:1"\ntimeout = 9')
    environ = {"HORDE_PROXY_SERVER__PLACES": "20", "HORDE_PROXY_SERVER__BIND": "127.0.0.1:2"}
    found = load(path, environ, {"server": {"bind": "127.0.0.1:3"}}).server
    assert (found.timeout, found.places, found.bind) == (9, 20, "127.0.0.1:3")


def test_the_environment_names_the_file(tmp_path: Path) -> None:
    path = written(tmp_path / "a.toml", "[server]\nplaces = 10")
    assert load(environ={"HORDE_PROXY_CONFIG": path}).server.places == 10


def test_a_python_file_has_the_same_names(tmp_path: Path) -> None:
    text = 'import os\nserver = {"places": 5 + 5}\nformats = {"a*": "alpaca"}'
    path = written(tmp_path / "a.py", text)
    found = load(path, {})
    assert (found.server.places, found.formats) == (10, {"a*": "alpaca"})


def test_ai_horde_api_key_sets_the_hordes_key() -> None:
    assert load(environ={"AI_HORDE_API_KEY": "k" * 22}).horde.api_key == "k" * 22


def test_port_sets_the_port() -> None:
    assert load(environ={"PORT": "9000"}).server.bind == "127.0.0.1:9000"


def test_a_section_in_the_environment_is_json() -> None:
    assert load(environ={"HORDE_PROXY_FORMATS": '{"a*": "plain"}'}).formats == {"a*": "plain"}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "HORDE_PROXY_SERVER__PLACES",
            "many",
            "setting server.places = 'many' from environment variable HORDE_PROXY_SERVER__PLACES: ",
        ),
        (
            "HORDE_PROXY_SERVER__BIND",
            "8080",
            "setting server.bind = '8080' from environment variable HORDE_PROXY_SERVER__BIND: "
            "write it as HOST:PORT, for example 127.0.0.1:8080",
        ),
        (
            "HORDE_PROXY_SERVR__BIND",
            "x",
            "setting servr = (hidden) from environment variable "
            "HORDE_PROXY_SERVR__BIND: there is no such setting; did you mean server?",
        ),
        (
            "HORDE_PROXY_SERVER__TIMOUT",
            "5",
            "setting server.timout = (hidden) from environment variable "
            "HORDE_PROXY_SERVER__TIMOUT: there is no such setting; did you mean timeout?",
        ),
        (
            "HORDE_PROXY_ACCESS__BIND",
            "x",
            "setting access.bind = (hidden) from environment variable HORDE_PROXY_ACCESS__BIND: "
            "there is no such setting here; `bind` belongs to [server]",
        ),
        (
            "HORDE_PROXY_HORDE__WEIGHT",
            "2",
            "setting horde.weight = (hidden) from environment variable HORDE_PROXY_HORDE__WEIGHT: "
            "there is no such setting here; `weight` belongs to [[endpoints]]",
        ),
        (
            "HORDE_PROXY_BIND__X",
            "1",
            "setting bind = (hidden) from environment variable "
            "HORDE_PROXY_BIND__X: there is no such setting; did you mean server.bind?",
        ),
        (
            "HORDE_PROXY_MODELS__IDS",
            "long",
            "setting models.ids = 'long' from environment variable HORDE_PROXY_MODELS__IDS: ",
        ),
        ("HORDE_PROXY_FORMATS", '{"a": "nope"}', "'a': no format 'nope'; use one of: placeholders"),
        ("PORT", "http", "setting server.bind = '127.0.0.1:http' from environment variable PORT: "),
    ],
)
def test_a_wrong_setting_is_named_with_value_and_source(
    name: str, value: str, message: str
) -> None:
    assert message in refused(environ={name: value})


def test_a_wrong_setting_in_a_file_names_the_file(tmp_path: Path) -> None:
    path = written(tmp_path / "a.toml", "[horde]\nurl = 'aihorde.net'")
    assert refused(path, {}) == (
        f"setting horde.url = 'aihorde.net' from {path}: "
        "write it with http:// or https:// and a host"
    )


def test_a_key_is_never_shown(tmp_path: Path) -> None:
    path = written(tmp_path / "a.toml", "[horde]\napi_key = 12345")
    assert "12345" not in refused(path, {})
    assert "secret-key" not in repr(load(environ={"AI_HORDE_API_KEY": "secret-key"}))


@pytest.mark.parametrize(
    "environ",
    [
        {"HORDE_PROXY_HORDE__APIKEY": "SECRETKEY"},
        {"HORDE_PROXY_ACCESS__KEY": "SECRETKEY"},
        {"HORDE_PROXY_ACCESS__KEYS": '{"a": "SECRETKEY"}'},
        {"HORDE_PROXY_HORDE": '"SECRETKEY"'},
    ],
)
def test_a_key_under_a_misspelt_name_is_not_shown(environ: dict[str, str]) -> None:
    with pytest.raises(ConfigError) as raised:
        load(environ=environ)
    assert "SECRETKEY" not in "".join(traceback.format_exception(raised.value))


def test_variables_of_kubernetes_for_a_service_of_this_name_are_ignored() -> None:
    environ = {"HORDE_PROXY_SERVICE_HOST": "10.0.0.1", "HORDE_PROXY_PORT": "tcp://10.0.0.1:80"}
    assert load(environ=environ) == load(environ={})


def test_lists_and_tables_in_the_environment_are_json() -> None:
    found = load(
        environ={
            "HORDE_PROXY_SERVER__TRUSTED_PROXIES": '["127.0.0.1"]',
            "HORDE_PROXY_ACCESS__MODE": "keys",
            "HORDE_PROXY_ACCESS__KEYS": '{"laptop": "a-long-random-key"}',
        }
    )
    assert found.server.trusted_proxies == ["127.0.0.1"]
    assert list(found.access.keys) == ["laptop"]


@pytest.mark.parametrize(
    "bind",
    [
        "::1:8080",
        "[::1:8080",
        "127.0.0.1:\u0663",
        "unix:/a,0.0.0.0:8080",
        ":8080",
        "a b:1",
        "h:99999",
    ],
)
def test_an_address_that_gunicorn_would_read_differently_is_refused(bind: str) -> None:
    assert "server.bind" in refused(environ={"HORDE_PROXY_SERVER__BIND": bind})


@pytest.mark.parametrize("text", ["server = 5", "1/0"])
def test_a_file_with_a_number_for_a_section_is_refused(tmp_path: Path, text: str) -> None:
    path = written(tmp_path / ("a.py" if "/" in text else "a.toml"), text)
    assert refused(path, {})


def test_port_next_to_a_socket_file_is_a_port_of_this_machine(tmp_path: Path) -> None:
    path = written(tmp_path / "a.toml", "[server]\nbind = 'unix:/run/x.sock'")
    assert load(path, {"PORT": "8081"}).server.bind == "127.0.0.1:8081"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    path = str(tmp_path / "none.toml")
    assert refused(path, {}) == f"cannot read the configuration {path}: No such file or directory"


def test_a_file_that_is_not_toml_is_named(tmp_path: Path) -> None:
    path = written(tmp_path / "a.toml", "[server")
    assert refused(path, {}).startswith(f"the configuration {path} is not valid: ")


@pytest.mark.parametrize("proxy", ["10.0.0.1/8", "nginx", "10.0.0.0/40", ""])
def test_a_trusted_proxy_is_an_address_or_a_network(proxy: str) -> None:
    with pytest.raises(ConfigError, match="neither an address nor a network"):
        load(environ={}, flags={"server": {"trusted_proxies": [proxy]}})
    given = ["10.0.0.0/8", "::1", "*"]
    found = load(environ={}, flags={"server": {"trusted_proxies": given}})
    assert found.server.trusted_proxies == given


def test_listening_for_other_machines_requires_an_access_mode() -> None:
    said = refused(environ={"HORDE_PROXY_SERVER__BIND": "0.0.0.0:8080"})
    assert said.startswith(
        "server.bind = '0.0.0.0:8080' is reachable from other machines: set access.mode to 'keys'"
    )


@pytest.mark.parametrize(
    "bind",
    [
        "0.0.0.0:1",
        "192.168.1.2:1",
        "[::]:1",
        "home.lan:1",
        "128.0.0.1:1",
    ],
)
def test_each_address_that_others_can_reach_requires_an_access_mode(bind: str) -> None:
    assert "access.mode" in refused(environ={"HORDE_PROXY_SERVER__BIND": bind})


@pytest.mark.parametrize(
    "bind",
    [
        "127.0.0.1:1",
        "127.8.8.8:1",
        "[::1]:1",
        "localhost:1",
        "unix:/run/horde-proxy.sock",
    ],
)
def test_an_address_of_this_machine_needs_no_access_mode(bind: str) -> None:
    assert load(environ={"HORDE_PROXY_SERVER__BIND": bind}).access.mode is None


@pytest.mark.parametrize(
    "access",
    [
        {"mode": "open"},
        {"mode": "passthrough"},
        {"mode": "keys", "keys": {"a": "k" * 16}},
    ],
)
def test_with_an_access_mode_other_machines_may_connect(access: dict[str, object]) -> None:
    flags = {"server": {"bind": "0.0.0.0:1"}, "access": access}
    assert load(environ={}, flags=flags).server.bind == "0.0.0.0:1"


@pytest.mark.parametrize(
    ("access", "said"),
    [
        ({"keys": {"a": "k" * 16}}, "is not used unless access.mode = 'keys'"),
        (
            {"mode": "keys", "keys": {"a": "short"}},
            "access.keys.a.key = (hidden) from the command line: it is shorter than 16 characters",
        ),
        ({"mode": "keys", "keys": {"a": "sha256:12"}}, "write 64 hexadecimal digits after sha256:"),
    ],
)
def test_keys_that_would_protect_nothing_are_refused(access: dict[str, object], said: str) -> None:
    message = refused(environ={}, flags={"access": access})
    assert said in message
    assert "short'" not in message


def test_port_keeps_the_host_of_the_file(tmp_path: Path) -> None:
    path = written(tmp_path / "a.toml", "[server]\nbind = '127.0.0.2:1'")
    assert load(path, {"PORT": "9000"}).server.bind == "127.0.0.2:9000"


def test_the_environment_example_of_the_service_is_valid_with_everything_in_it() -> None:
    """Its lines as systemd reads them: single quotes around a value are taken away."""
    example = Path(__file__).parent.parent / "systemd" / "horde-proxy.env.example"
    lines = [line.lstrip("#") for line in example.read_text().splitlines()]
    pairs = [line.split("=", 1) for line in lines if line.startswith(("HORDE_", "AI_HORDE_"))]
    environ = {name: value.strip("'") for name, value in pairs if name != "HORDE_PROXY_CONFIG"}
    found = load(environ=environ)
    assert (found.access.mode, list(found.access.keys)) == ("keys", ["laptop", "phone"])
    assert (found.server.trusted_proxies, found.server.log_format) == (["127.0.0.1"], "json")


ENDPOINT = {"url": "http://127.0.0.1:11434", "api_key": "a-secret-key"}


def endpoints(environ: dict[str, str]) -> list[tuple[str | None, str | None, float]]:
    return [(each.url, each.api_key, each.timeout) for each in load(environ=environ).endpoints]


def test_a_python_file_lists_endpoints(tmp_path: Path) -> None:
    path = written(tmp_path / "config.py", f"endpoints = [{ENDPOINT!r}]")
    [found] = load(path, {}).endpoints
    assert (found.url, found.api_key, found.type) == (
        "http://127.0.0.1:11434",
        "a-secret-key",
        "openai",
    )


def test_a_toml_file_lists_endpoints(tmp_path: Path) -> None:
    path = written(
        tmp_path / "a.toml",
        """
[[endpoints]]
url = "https://api.example.org/v1"
priority = 1
models = ["gpt-*"]
prefix = "cloud/"
headers = {OpenAI-Organization = "home"}
[[endpoints]]
type = "horde"
""",
    )
    cloud, horde = load(path, {}).endpoints
    assert (cloud.label(), cloud.priority, cloud.weight, cloud.timeout) == (
        "api.example.org",
        1,
        1.0,
        300,
    )
    assert (horde.label(), horde.url) == ("horde", None)


def test_a_host_beyond_ascii_makes_a_name_that_a_header_can_carry() -> None:
    found = load(environ={}, flags={"endpoints": [{"url": "http://müller.local:11434"}]})
    assert found.endpoints[0].label() == "m%C3%BCller.local:11434"


def test_target_openai_url_is_one_endpoint() -> None:
    environ = {"TARGET_OPENAI_URL": "http://a:1", "API_KEY": "k", "TIMEOUT": "9"}
    assert endpoints(environ) == [("http://a:1", "k", 9)]


def test_the_timeout_of_a_target_is_a_minute() -> None:
    assert endpoints({"TARGET_OPENAI_URL": "http://a:1"}) == [("http://a:1", None, 60)]


def test_endpoints_are_urls_and_keys_as_json() -> None:
    environ = {"ENDPOINTS": '{"http://a:1": "one", "http://b:2": ""}'}
    assert endpoints(environ) == [("http://a:1", "one", 60), ("http://b:2", None, 60)]


def test_endpoints_are_urls_with_commas_between() -> None:
    environ = {"ENDPOINTS": "http://a:1, http://b:2,", "API_KEY": "k"}
    assert endpoints(environ) == [("http://a:1", "k", 60), ("http://b:2", "k", 60)]


def test_a_target_comes_before_the_other_endpoints() -> None:
    environ = {"TARGET_OPENAI_URL": "http://t:1", "ENDPOINTS": "http://a:1"}
    assert [url for url, _, _ in endpoints(environ)] == ["http://t:1", "http://a:1"]


def test_api_key_and_timeout_without_a_target_are_ignored() -> None:
    assert endpoints({"API_KEY": "k", "TIMEOUT": "forever"}) == []


@pytest.mark.parametrize("text", ["{", '{"http://a:1": 5}', "[1]"])
def test_endpoints_that_are_not_valid_json_are_refused(text: str) -> None:
    assert "environment variable ENDPOINTS" in refused(environ={"ENDPOINTS": text})


@pytest.mark.parametrize(
    ("endpoint", "said"),
    [
        ({}, "an endpoint needs a url"),
        ({"url": "127.0.0.1:1"}, "endpoints.0.url = (hidden) from the command line: write it with"),
        ({**ENDPOINT, "type": "olama"}, "endpoints.0.type = 'olama' from the command line"),
        ({**ENDPOINT, "wieght": 2}, "there is no such setting; did you mean weight?"),
        ({**ENDPOINT, "weight": 0}, "endpoints.0.weight = 0 from the command line"),
        ({**ENDPOINT, "headers": {"a b": "c"}}, "'a b' is not the name of a header"),
        ({**ENDPOINT, "headers": {"a": "b\n"}}, "characters not allowed in an HTTP header"),
        ({**ENDPOINT, "name": "a b"}, "a name has up to 64"),
        ({**ENDPOINT, "place": "hoem"}, "Input should be 'home', 'private', 'crowd' or 'paid'"),
    ],
)
def test_a_wrong_endpoint_is_explained_without_its_key(
    endpoint: dict[str, object], said: str
) -> None:
    message = refused(environ={}, flags={"endpoints": [endpoint]})
    assert said in message
    assert "a-secret-key" not in message


def test_two_endpoints_of_one_name_are_refused() -> None:
    named = {**ENDPOINT, "name": "home"}
    message = refused(environ={}, flags={"endpoints": [named, named]})
    assert "two endpoints are called 'home'" in message


def test_endpoints_of_one_host_without_names_are_numbered() -> None:
    found = load(environ={"ENDPOINTS": "http://h:1/a/v1,http://h:1/b/v1,http://h:1/c/v1"})
    assert [each.label() for each in found.endpoints] == ["h:1", "h:1-2", "h:1-3"]


def test_a_key_may_have_limits() -> None:
    key = {"key": "k" * 16, "models": ["gpt-*"], "requests_per_minute": 5, "admin": True}
    access = {"mode": "keys", "keys": {"a": key, "b": "l" * 16}}
    keys = load(environ={}, flags={"access": access}).access.keys
    assert (keys["a"].models, keys["a"].requests_per_minute, keys["a"].admin) == (
        ["gpt-*"],
        5,
        True,
    )
    assert (keys["b"].key, keys["b"].models) == ("l" * 16, [])


def test_a_key_for_an_unknown_endpoint_is_refused() -> None:
    access = {"mode": "keys", "keys": {"a": {"key": "k" * 16, "endpoints": ["home"]}}}
    message = refused(environ={}, flags={"access": access, "endpoints": [ENDPOINT]})
    assert "access.keys.a.endpoints: there is no endpoint 'home'" in message


@pytest.mark.parametrize("url", ["mysql://a/b", "sqlite:", "a.db", "sqlite:///:memory:"])
def test_an_unknown_database_is_refused(url: str) -> None:
    message = refused(environ={}, flags={"access": {"database": url}})
    assert "access.database = (hidden) from the command line" in message


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        (
            {"endpoints": [{"url": "http://a", "api_key": "secret\n"}]},
            "not allowed in an HTTP header",
        ),
        (
            {"endpoints": [{"url": "http://a", "api_key": "s€cret"}]},
            "not allowed in an HTTP header",
        ),
        ({"horde": {"api_key": "secret\n"}}, "not allowed in an HTTP header"),
        (
            {"access": {"mode": "keys", "keys": {"a": {"key": "k" * 16, "horde_key": "secret\n"}}}},
            "not allowed in an HTTP header",
        ),
        (
            {"endpoints": [{"url": "http://u:secret/x@a"}]},
            "port must be a number from 1",
        ),
        (
            {"endpoints": [{"url": "http://u:[secret]x@a"}]},
            "the URL has no valid host",
        ),
        (
            {"endpoints": [{"url": "http://u:secret\u2100@a"}]},
            "the URL has no valid host",
        ),
        ({"endpoints": [{"url": "http://a:65536"}]}, "port must be a number from 1"),
        ({"endpoints": [{"url": "http://a/ secret"}]}, "it has characters not allowed in a URL"),
        ({"endpoints": [{"url": "http://a/\nsecret"}]}, "it has characters not allowed in a URL"),
    ],
)
def test_a_value_that_no_request_can_carry_is_refused_without_showing_it(
    tree: dict[str, Any], message: str
) -> None:
    said = refused(environ={}, flags=tree)
    assert message in said
    assert "secret" not in said


def test_seconds_must_be_finite() -> None:
    said = refused(environ={"HORDE_PROXY_SERVER__TIMEOUT": "inf"})
    assert said == (
        "setting server.timeout = 'inf' from environment variable HORDE_PROXY_SERVER__TIMEOUT: "
        "Input should be a finite number"
    )


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("k" * 16 + " ", "it has spaces at an end, which clients do not send"),
        ("k" * 16 + "\n", "it has characters not allowed in an HTTP header, such as a newline"),
        ("sk-no-key-required", "clients without a key send sk-no-key...: choose another"),
    ],
)
def test_a_client_key_that_could_never_be_used_is_refused(key: str, message: str) -> None:
    access = {"mode": "keys", "keys": {"a": key}}
    assert message in refused(environ={}, flags={"access": access})


def test_the_same_key_under_two_names_is_refused() -> None:
    digest = "sha256:" + sha256(b"k" * 16).hexdigest().upper()
    access = {"mode": "keys", "keys": {"a": "k" * 16, "b": "x" * 16, "c": {"key": digest}}}
    assert refused(environ={}, flags={"access": access}) == (
        "access.keys: a and c are the same key"
    )


@pytest.mark.parametrize("listed", ['[{"url": "http://a"}]', '[["http://a"]]', "[3]", "[null]"])
def test_endpoints_that_are_not_urls_are_refused(listed: str) -> None:
    assert refused(environ={"ENDPOINTS": listed}) == (
        "environment variable ENDPOINTS: expected URLs and their keys"
    )


@pytest.mark.parametrize("seconds", ["x", "0", "-1", "inf", "nan"])
def test_a_wrong_timeout_is_named(seconds: str) -> None:
    environ = {"TIMEOUT": seconds, "TARGET_OPENAI_URL": "http://a"}
    assert refused(environ=environ) == (
        f"environment variable TIMEOUT = {seconds!r}: expected seconds above 0"
    )


def test_both_variables_are_named_where_both_give_endpoints() -> None:
    assert refused(environ={"ENDPOINTS": "http://a", "TARGET_OPENAI_URL": "b"}) == (
        "setting endpoints.0.url = (hidden) from environment variable TARGET_OPENAI_URL and "
        "ENDPOINTS: write it with http:// or https:// and a host"
    )


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = written(tmp_path / "a.toml", "\ufeff[server]\nplaces = 10")
    assert load(path, {}).server.places == 10


def test_a_missing_setting_is_blamed_on_its_file(tmp_path: Path) -> None:
    path = written(tmp_path / "a.toml", '[access]\nmode = "keys"\n[access.keys.a]\nadmin = true')
    assert refused(path, {}) == (
        f"setting access.keys.a.key = (hidden) from {path}: Field required"
    )


def test_a_python_file_that_cannot_read_another_file_names_it(tmp_path: Path) -> None:
    path = written(tmp_path / "a.py", "open('/nowhere/key')")
    assert refused(path, {}) == (
        f"cannot read the configuration {path}: [Errno 2] No such file or directory: '/nowhere/key'"
    )


def test_no_endpoint_may_be_called_as_the_private_horde() -> None:
    flags: dict[str, Any] = {
        "private_horde": {"enabled": True},
        "endpoints": [{"url": "http://a"}],
    }
    assert load(environ={}, flags=flags).endpoints[0].name == "a"
    flags["endpoints"] = [{"url": "http://a", "name": "private"}]
    assert "two endpoints are called 'private'" in refused(environ={}, flags=flags)


# Sources that say nothing.

SAY = (
    ", and nothing else says where chats go: they would go to the public horde. Name your servers, "
    "or write [[endpoints]] with type = 'horde' if you mean the public horde, or leave this out"
)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.toml", ""),
        ("a.toml", "\ufeff"),
        ("a.toml", "# [[endpoints]]\n# url = 'http://127.0.0.1:11434'\n"),
        ("a.toml", "[server]\n[access.keys]\n"),
        ("a.py", ""),
        ("a.py", "import os\nserver = {}\n"),
    ],
)
def test_a_file_that_was_named_and_sets_nothing_is_refused(
    tmp_path: Path, name: str, text: str
) -> None:
    path = written(tmp_path / name, text)
    assert refused(path, {}) == f"the configuration {path} sets nothing{SAY}"
    assert refused(environ={"HORDE_PROXY_CONFIG": path}) == (
        f"the configuration {path} sets nothing{SAY}"
    )
    # The horde's key does not say that chats may go there: the unit's example always has one.
    assert "sets nothing" in refused(path, {"AI_HORDE_API_KEY": "k" * 22})


@pytest.mark.parametrize(
    "environ",
    [
        {"ENDPOINTS": "http://a:1"},
        {"HORDE_PROXY_HORDE__URL": "https://aihorde.net/api"},
        {"HORDE_PROXY_PRIVATE_HORDE__ENABLED": "true"},
        {"HORDE_PROXY_ENDPOINTS": '[{"type": "horde"}]'},
    ],
)
def test_a_file_may_be_empty_where_another_source_says_where_chats_go(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    path = written(tmp_path / "a.toml", "")
    assert load(path, environ).says_where_chats_go()


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"HORDE_PROXY_CONFIG": ""}, "environment variable HORDE_PROXY_CONFIG is empty"),
        ({"TARGET_OPENAI_URL": ""}, "environment variable TARGET_OPENAI_URL is empty"),
        ({"ENDPOINTS": ""}, "environment variable ENDPOINTS names no server"),
        ({"ENDPOINTS": " , "}, "environment variable ENDPOINTS names no server"),
        ({"ENDPOINTS": "[]"}, "environment variable ENDPOINTS names no server"),
        ({"ENDPOINTS": "{}"}, "environment variable ENDPOINTS names no server"),
        (
            {"HORDE_PROXY_ENDPOINTS": "[]"},
            "setting endpoints = [] from environment variable HORDE_PROXY_ENDPOINTS names no "
            "server",
        ),
    ],
)
def test_an_empty_variable_for_endpoints_is_refused(environ: dict[str, str], said: str) -> None:
    """As of ENDPOINTS=$UNSET in a shell, or in a compose file."""
    assert refused(environ=environ) == said + SAY
    assert load(environ={**environ, "HORDE_PROXY_PRIVATE_HORDE__ENABLED": "true"})


@pytest.mark.parametrize(
    "name",
    [
        "HORDE_PROXY_ENDPOINTS",
        "HORDE_PROXY_ACCESS__MODE",
        "HORDE_PROXY_ACCESS__KEYS",
        "HORDE_PROXY_ACCESS__DATABASE",
        "HORDE_PROXY_HORDE__URL",
        "HORDE_PROXY_HORDE__ALLOW_WORKERS",
        "HORDE_PROXY_PRIVATE_HORDE__ENABLED",
        "HORDE_PROXY_SERVER__BIND",
        "HORDE_PROXY_SERVER__TRUSTED_PROXIES",
    ],
)
def test_an_empty_variable_is_no_default(name: str) -> None:
    assert name in refused(environ={name: ""})


def test_an_empty_flag_for_the_file_is_refused() -> None:
    assert refused("", {}) == f"--config is empty{SAY}"


def test_an_empty_list_of_endpoints_is_not_the_public_horde(tmp_path: Path) -> None:
    path = written(tmp_path / "a.py", "endpoints = [each for each in [] if each]")
    assert refused(path, {}) == f"setting endpoints = [] from {path} names no server{SAY}"


@pytest.mark.parametrize("name", ["endpoint", "ENDPOINTS", "endpionts"])
def test_endpoints_under_a_wrong_name_in_a_python_file_are_not_the_public_horde(
    tmp_path: Path, name: str
) -> None:
    text = f"server = {{'places': 5}}\n{name} = [{{'url': 'http://a'}}]\n"
    path = written(tmp_path / "a.py", text)
    assert refused(path, {}) == f"the configuration {path} sets {name!r}, and not 'endpoints'{SAY}"
    endpoint = written(tmp_path / "b.py", f"endpoint = {ENDPOINT!r}\nendpoints = [endpoint]")
    assert len(load(endpoint, {}).endpoints) == 1


def test_the_file_is_kept_with_the_settings_but_not_shown(tmp_path: Path) -> None:
    path = written(tmp_path / "a.toml", "[horde]\r\napi_key = 'a-secret'\r\n")
    found = load(path, {})
    assert found.file is not None
    assert (found.file.path, found.file.text) == (path, "[horde]\napi_key = 'a-secret'\n")
    assert "a-secret" not in repr(found) + repr(found.file)
    assert load(environ={}).file is None


@pytest.mark.parametrize("name", ["", "ann's phone", "a" * 65, "mü", "a\nb", "x" * 10_000])
def test_a_keys_name_has_letters_digits_and_a_few_signs(name: str) -> None:
    flags = {"access": {"mode": "keys", "keys": {name: "k" * 16}}}
    with pytest.raises(ConfigError, match=r"access\.keys.*up to 64 letters, digits") as caught:
        load(environ={}, flags=flags)
    assert len(str(caught.value)) < 400
    good = ["a", "A.b_c-d@e", "9" * 64]
    keys = {name: f"{index}" * 16 for index, name in enumerate(good)}
    flags = {"access": {"mode": "keys", "keys": keys}}
    assert list(load(environ={}, flags=flags).access.keys) == good


def test_no_key_has_the_name_that_requests_without_a_key_are_counted_for() -> None:
    with pytest.raises(ConfigError, match="'anybody': choose another name"):
        load(environ={}, flags={"access": {"keys": {"anybody": "k" * 16}}})


# Machines that sleep


DESKTOP = {"url": "http://desktop.lan:11434", "wake": "AA-BB-CC-DD-EE-FF"}


def test_an_endpoint_says_how_its_machine_is_woken_and_what_runs_when_nobody_uses_it() -> None:
    hook = {"idle_after": 0.5, "idle_hook": ["ssh", "desktop", "systemctl", "suspend"]}
    flags = {"endpoints": [{**DESKTOP, "wake_address": "192.168.1.255", **hook}]}
    [endpoint] = load(environ={}, flags=flags).endpoints
    assert (endpoint.wake, endpoint.wake_address) == ("AA-BB-CC-DD-EE-FF", "192.168.1.255")
    assert endpoint.boot_seconds == 120
    assert (endpoint.idle_after, endpoint.idle_hook) == (0.5, hook["idle_hook"])


def test_a_file_with_a_command_that_others_may_write_is_refused(tmp_path: Path) -> None:
    text = '[[endpoints]]\nurl = "http://a"\nidle_after = 5\nidle_hook = {}'
    path = written(tmp_path / "a.toml", text.format('["suspend", "a"]'))
    Path(path).chmod(0o644)
    assert load(path, {}).endpoints[0].idle_hook == ["suspend", "a"]
    Path(path).chmod(0o666)
    assert refused(path, {}) == (
        f"the configuration {path} is not used, because it has a command (idle_hook), and others "
        f"may write it: chmod go-w {path}"
    )
    written(tmp_path / "a.toml", text.format('"http://nas/sleep"'))
    assert load(path, {}).endpoints[0].idle_hook == "http://nas/sleep"


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"wake": "desktop"}, "write the MAC address of its network card, as in aa:bb:cc:dd:ee:ff"),
        ({"wake": "ff:ff:ff:ff:ff:ff"}, "this is no MAC address of one network card"),
        ({"wake_address": "192.168.1.255:0"}, "write it as HOST or HOST:PORT"),
        ({"boot_seconds": 0}, "greater than 0"),
        ({"wake": None, "wake_address": "192.168.1.255"}, "`wake_address` needs `wake`"),
        ({"type": "horde"}, "`wake` is for a server with a url, and not for a horde"),
        ({"idle_after": 5}, "`idle_after` and `idle_hook` need each other"),
        ({"idle_hook": ["x"]}, "`idle_after` and `idle_hook` need each other"),
        ({"idle_after": 5, "idle_hook": []}, "write a command as a list of its words"),
        ({"idle_after": 5, "idle_hook": ["a\0b"]}, "write a command as a list of its words"),
        ({"idle_after": 5, "idle_hook": "suspend desktop"}, "write a command as a list"),
        ({"idle_after": 5, "idle_hook": "ftp://nas"}, "write it with http:// or https://"),
        ({"idle_after": 5, "idle_hook": {"run": "x"}}, "write a command as a list"),
    ],
)
def test_what_cannot_wake_a_machine_or_run_is_explained(
    settings: dict[str, object], problem: str
) -> None:
    message = refused(environ={}, flags={"endpoints": [{**DESKTOP, **settings}]})
    assert problem in message
