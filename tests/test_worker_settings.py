"""The worker's settings file, its command, its status page and its status line."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import responses
from click.testing import CliRunner
from werkzeug.test import Client

from horde_proxy.commands.cli import main
from horde_proxy.commands.worker import _bridge, _options_of
from horde_proxy.commands.worker_report import _say_farewell, report_lines
from horde_proxy.commands.worker_settings import WorkerSettings, read_worker_file
from horde_proxy.config.errors import ConfigError
from horde_proxy.worker.crew import WorkerEnd
from horde_proxy.worker.kinds import JobSummary
from horde_proxy.worker.status import WorkerStatus
from horde_proxy.worker.status_page import StatusPage, serve_status, status_document, status_line
from tests.image_servers import FakeOpenAIImages, FakeWebUI, serve
from tests.support import Clock

ROOT = Path(__file__).parent.parent
URL = "http://backend.invalid:5001"
MINIMAL = """
[[hordes]]
url = "http://own.invalid"
api_key = "a-secret"

[[backends]]
url = "echo"
"""


def written(tmp_path: Path, text: str) -> str:
    path = tmp_path / "worker.toml"
    path.write_text(text)
    return str(path)


def example() -> str:
    """The complete example of docs/worker.md."""
    text = (ROOT / "docs" / "worker.md").read_text()
    return text.partition("```toml\n")[2].partition("```")[0]


def test_the_example_of_the_documentation_has_every_setting(tmp_path: Path) -> None:
    settings = read_worker_file(written(tmp_path, example()))

    def unset(section: Any) -> list[str]:
        nested = [getattr(section, name) for name in type(section).model_fields]
        return [
            name for name in type(section).model_fields if name not in section.model_fields_set
        ] + [
            name for value in nested if hasattr(value, "model_fields_set") for name in unset(value)
        ]

    assert unset(settings) == []
    assert [name for name in unset(settings.hordes[0]) if name != "proxy_url"] == []
    # No backend does both texts and images.
    assert set(unset(settings.backends[0])) & set(unset(settings.backends[1])) == set()
    assert [horde.url for horde in settings.hordes] == [
        "http://127.0.0.1:8080",
        "https://horde.example.org",
        "https://aihorde.net",
    ]


def test_a_file_of_two_lines_is_enough(tmp_path: Path) -> None:
    settings = read_worker_file(written(tmp_path, MINIMAL))
    assert settings.hordes[0].name is None
    assert (settings.idle.others, settings.idle.max_load, settings.idle.abort) == (
        False,
        None,
        False,
    )
    assert (settings.worker.drain, settings.worker.status) == (30.0, None)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (
            MINIMAL.replace('"http://own.invalid"', '"own"'),
            "setting hordes.0.url = 'own' from {}: write it with http:// or https:// and a host",
        ),
        (
            MINIMAL.replace('"echo"', '"echo"\nthreads = 99'),
            "setting backends.0.threads = 99 from {}: Input should be less than or equal to 50",
        ),
        (
            MINIMAL.replace('"echo"', '"echo"\nkind = "llama"'),
            "setting backends.0.kind = 'llama' from {}: use one of koboldai, ollama, openai, "
            "llama.cpp, vllm, tabbyapi, lm-studio",
        ),
        (
            MINIMAL.replace('"echo"', '"echo"\nmax_context = 4096'),
            "setting backends.0.max_context = (hidden) from {}: there is no such setting; did you "
            "mean max_context_length?",
        ),
        (
            MINIMAL + "[idle]\nmaxload = 1",
            "setting idle.maxload = (hidden) from {}: there is no such setting; did you mean "
            "max_load?",
        ),
        (
            MINIMAL + "[idle]\ndrain = 5",
            "setting idle.drain = (hidden) from {}: there is no such setting here; `drain` belongs "
            "to [worker]",
        ),
        (
            MINIMAL + "[filter]\nwords = []",
            "setting filter = (hidden) from {}: there is no such setting; did you mean filters?",
        ),
        (MINIMAL + "[idle]\nabort = true", "idle.abort does nothing without idle.max_load or"),
        (
            MINIMAL + '[filters]\npatterns = ["(a"]',
            "setting filters.patterns.0 = '(a' from {}: '(a' is no pattern of RE2: missing ): (a",
        ),
        (
            MINIMAL + '[worker]\nstatus = "0.0.0.0:9000"',
            "setting worker.status = '0.0.0.0:9000' from {}: write it as 127.0.0.1:PORT: the page "
            "is for this machine only",
        ),
        (
            MINIMAL.replace('"a-secret"', '"a-secret\\n"'),
            "setting hordes.0.api_key = (hidden) from {}: it has characters not allowed in an HTTP",
        ),
        (
            MINIMAL.replace('api_key = "a-secret"', ""),
            "setting hordes.0.api_key is missing in {}: write the key there, or set AI_HORDE_API_",
        ),
        (
            MINIMAL + '[[hordes]]\nurl = "http://own.invalid"\napi_key = "b"',
            "two hordes have the same url: leave one out",
        ),
        (
            MINIMAL + 'name = "a"\n[[backends]]\nurl = "ngram"\nname = "a"',
            "two backends have the name 'a': give each its own",
        ),
        ("[[hordes]]\n", "setting backends = (hidden) from {}: Field required"),
        (
            MINIMAL.replace('url = "http://own.invalid"', ""),
            "setting hordes.0.url = (hidden) from {}: Field required",
        ),
        ("hordes = [", "the configuration {} is not valid"),
    ],
)
def test_a_wrong_setting_is_named_with_its_value_and_source(
    tmp_path: Path, text: str, error: str
) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigError) as raised:
        read_worker_file(path)
    assert error.format(path) in str(raised.value)
    assert "a-secret" not in str(raised.value)


def test_the_key_of_the_environment_goes_to_one_horde_only(tmp_path: Path) -> None:
    keyless = MINIMAL.replace('api_key = "a-secret"', "")
    settings = read_worker_file(written(tmp_path, keyless), "mine")
    assert settings.hordes[0].api_key == "mine"
    second = keyless + '[[hordes]]\nurl = "http://other.invalid"\n'
    with pytest.raises(ConfigError, match=r"hordes\.1\.api_key is missing in .*: write the key th"):
        read_worker_file(written(tmp_path, second), "mine")


def opened(text: str, tmp_path: Path, index: int = 0) -> Any:
    settings = read_worker_file(written(tmp_path, text))
    backend = settings.backends[index]
    options = _options_of(backend, settings)
    return _bridge(
        settings, backend, options, end=WorkerEnd(0), status=WorkerStatus(), proxy_url="http://p"
    )


@responses.activate
def test_threads_models_and_lengths_are_the_servers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = {"id": "m", "owned_by": "llamacpp", "meta": {"n_ctx": 8192}}
    responses.get(f"{URL}/v1/models", json={"data": [entry]})
    responses.get(f"{URL}/props", json={"total_slots": 4})
    text = MINIMAL.replace('"echo"', f'"{URL}"')
    bridge = opened(text, tmp_path)
    assert bridge._threads == 4
    assert bridge._kind.offer(1).fields["max_context_length"] == 8192
    assert "4 jobs at a time (the server's slots)" in capsys.readouterr().err
    assert opened(text + "threads = 2\nmax_length = 99\n", tmp_path)._threads == 2


@responses.activate
def test_each_backend_is_a_worker_of_its_own_name(tmp_path: Path) -> None:
    responses.get(f"{URL}/v1/models", json={"data": [{"id": "a/Big"}, {"id": "small"}]})
    text = MINIMAL.replace('"a-secret"', '"a-secret"\nname = "attic"') + (
        f'[[backends]]\nurl = "{URL}"\nkind = "openai"\nmodels = ["*"]\n'
        f'[[backends]]\nurl = "{URL}"\nkind = "openai"\nmodels = ["small"]\nname = "tiny"\n'
    )
    names = [opened(text, tmp_path, index)._hordes[0].identity.name for index in range(3)]
    assert names == ["attic-echo", "attic-Big", "attic-tiny"]
    assert opened(text, tmp_path, 1)._kind.offer(1).fields["models"] == ["a/Big", "small"]


@pytest.mark.parametrize("horde", ["", 'name = "attic"', f'name = "{"a" * 100}"'])
def test_backends_with_one_model_differ_by_their_own_names(tmp_path: Path, horde: str) -> None:
    text = MINIMAL.replace('"a-secret"', f'"a-secret"\n{horde}') + (
        'name = "big"\n[[backends]]\nurl = "echo"\nname = "tiny"\n'
    )
    names = [opened(text, tmp_path, index)._hordes[0].identity.name for index in range(2)]
    parts = [name.removesuffix(f"-{os.getpid()}").rpartition("-")[2] for name in names]
    assert parts == ["big", "tiny"]
    assert max(map(len, names)) <= 100


@responses.activate
def test_denied_models_are_never_offered(tmp_path: Path) -> None:
    responses.get(f"{URL}/v1/models", json={"data": [{"id": "Qwen"}, {"id": "evil-8b"}]})
    text = MINIMAL.replace('"echo"', f'"{URL}"\nkind = "openai"')
    bridge = opened(text + '[filters]\ndenied_models = ["evil*"]\n', tmp_path)
    assert bridge._kind.offer(1).fields["models"] == ["Qwen"]


def test_a_proxy_is_for_hordes_that_are_not_at_home(tmp_path: Path) -> None:
    text = MINIMAL.replace("http://own.invalid", "http://192.168.1.2:8080") + (
        '[[hordes]]\nurl = "https://aihorde.net"\napi_key = "k"\n'
        '[[hordes]]\nurl = "https://example.org"\napi_key = "k"\nproxy_url = "direct"\n'
    )
    identities = [horde.identity for horde in opened(text, tmp_path)._hordes]
    assert [identity.proxy_url for identity in identities] == [None, "http://p", "direct"]


def run(*arguments: str, **environ: str) -> Any:
    return CliRunner().invoke(main, ["worker", *arguments], env={"AI_HORDE_API_KEY": "", **environ})


def test_a_flag_beside_a_file_is_refused(tmp_path: Path) -> None:
    result = run("--config", written(tmp_path, MINIMAL), "--threads", "2")
    assert result.exit_code == 2
    assert "--threads cannot go with --config: write it into the file" in result.output


@pytest.mark.parametrize(
    ("arguments", "missing"),
    [
        (["--backend", "echo", "--api-key", "k"], "--horde"),
        (["--horde", "http://h.invalid", "--api-key", "k"], "--backend"),
        (["--horde", "http://h.invalid", "--backend", "echo"], "--api-key"),
    ],
)
def test_without_a_file_the_flags_are_needed(arguments: list[str], missing: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert f"Missing option '{missing}'" in result.output


def test_a_wrong_file_ends_the_command_with_its_error(tmp_path: Path) -> None:
    result = run("--config", written(tmp_path, "x = 1"))
    assert result.exit_code == 78
    assert "there is no such setting" in result.output


@responses.activate
def test_a_worker_of_a_file_works_until_all_hordes_reject_it(tmp_path: Path) -> None:
    pop = "http://own.invalid/api/v2/generate/text/pop"
    responses.post(pop, json={"id": "1", "payload": {"prompt": "Hi"}})
    responses.post(pop, status=401, json={"rc": "InvalidAPIKey"})
    submit = responses.post(pop.replace("pop", "submit"), json={"reward": 1.0})
    result = run("--config", written(tmp_path, MINIMAL))
    assert result.exit_code == 1
    assert "Error: the horde does not know this worker's API key" in result.output
    assert json.loads(submit.calls[0].request.body)["generation"] == "Hi"
    assert "a-secret" not in result.output


def status() -> WorkerStatus:
    clock = Clock()
    made = WorkerStatus(clock)
    done = made.begin("1", "http://own", JobSummary("chat", "m", 80))
    failed = made.begin("2", "http://own", JobSummary("text", "m", 80))
    clock.sleep(4)
    made.end(done, "ok", 40, 1.5)
    made.end(failed, "faulted", 0, 0.0)
    made.end(made.begin("3", "http://f", JobSummary("text", "m", 80)), "ok", 10, None)
    made.begin("4", "http://own", JobSummary("text", "<b>m</b>", 512))
    clock.sleep(6)
    made.hold("m", "others use the backend")
    made.failing("http://f", True)
    return made


def test_a_status_counts_jobs_kudos_tokens_and_what_runs() -> None:
    assert status_document(status().snapshot()) == {
        "uptime": 10,
        "hordes": [
            {"url": "http://f", "jobs": {"lost": 1}, "kudos": 0.0, "failing": True},
            {"url": "http://own", "jobs": {"ok": 1, "faulted": 1}, "kudos": 1.5, "failing": False},
        ],
        "chats": 1,
        "images": 0,
        "forms": 0,
        "tokens": 50,
        "tokens_per_second": 5.0,
        "running": [
            {
                "id": "4",
                "horde": "http://own",
                "model": "<b>m</b>",
                "max_length": 512,
                "chat": False,
                "kind": "text",
                "seconds": 6,
            }
        ],
        "held": {"m": "others use the backend"},
    }


def test_the_status_fits_in_a_line() -> None:
    assert status_line(status().snapshot()) == (
        "1 jobs, 1 given back, 1 not taken, 1.5 kudos, 5.0 tokens/s, 1 running: <b>m</b> (6 s), "
        "m: others use the backend, http://f fails"
    )
    assert status_line(WorkerStatus().snapshot()) == "0 jobs, 0.0 kudos, 0.0 tokens/s"


def test_the_metrics_are_prometheus_text() -> None:
    text = Client(StatusPage(status())).get("/metrics").get_data(as_text=True)
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert lines == [
        'horde_worker_jobs_total{horde="http://f",state="lost"} 1.0',
        'horde_worker_jobs_total{horde="http://own",state="faulted"} 1.0',
        'horde_worker_jobs_total{horde="http://own",state="ok"} 1.0',
        'horde_worker_kudos_total{horde="http://f"} 0.0',
        'horde_worker_kudos_total{horde="http://own"} 1.5',
        "horde_worker_chats_total 1.0",
        "horde_worker_images_total 0.0",
        "horde_worker_forms_total 0.0",
        "horde_worker_tokens_total 50.0",
        "horde_worker_running_jobs 1.0",
        "horde_worker_held_backends 1.0",
        "horde_worker_failing_hordes 1.0",
        "horde_worker_uptime_seconds 10.0",
    ]


def test_the_status_page_shows_names_of_others_as_text() -> None:
    client = Client(StatusPage(status()))
    page = client.get("/")
    assert page.content_type == "text/html; charset=utf-8"
    text = page.get_data(as_text=True)
    assert "&lt;b&gt;m&lt;/b&gt;" in text
    assert "<tr><th>Horde<th>Done<th>Given back<th>Not taken<th>Kudos" in text
    assert "<tr><td>http://f<td>0<td>0<td>1<td>0.0" in text
    assert "<tr><th>Running model<th>Kind<th>Horde<th>Running for" in text
    assert client.get("/status").json == status_document(status().snapshot())
    assert client.head("/").get_data() == b""


@pytest.mark.parametrize(
    ("path", "method", "host", "code"),
    [
        ("/", "GET", "evil.example", 403),
        ("/metrics", "GET", "169.254.1.1:9180", 403),
        ("/status", "GET", "127.0.0.1:9180", 200),
        ("/status", "GET", "[::1]:9180", 200),
        ("/status", "POST", "localhost", 405),
        ("/else", "GET", "localhost", 404),
    ],
)
def test_the_status_page_is_for_this_machine(path: str, method: str, host: str, code: int) -> None:
    response = Client(StatusPage(status())).open(path, method=method, headers={"Host": host})
    assert response.status_code == code


@pytest.mark.parametrize(
    ("host", "family"), [("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)]
)
def test_the_status_page_listens_at_addresses_of_both_kinds(
    monkeypatch: pytest.MonkeyPatch, host: str, family: int
) -> None:
    started: list[Any] = []

    def start(host: str, port: int, _app: Any, server: Any, _handler: Any) -> Any:
        started.append((host, port, server.address_family))
        return SimpleNamespace(serve_forever=lambda: None)

    monkeypatch.setattr("horde_proxy.worker.status_page.make_server", start)
    serve_status(host, 9180, status())
    assert started == [(host, 9180, family)]


def test_a_drain_says_what_runs_and_how_to_end_it(capsys: pytest.CaptureFixture[str]) -> None:
    end = WorkerEnd(30, lambda seconds, call: None)
    end.request()
    _say_farewell(status(), end)
    assert capsys.readouterr().err == (
        "Draining: running jobs: 1. Press Ctrl-C or send SIGTERM again to give them back now.\n"
    )


def test_a_status_line_is_reported_when_it_has_changed() -> None:
    end, lines = WorkerEnd(0), list[str]()
    made = WorkerStatus(Clock())

    def report(line: str) -> None:
        lines.append(line)
        if len(lines) == 1:
            made.begin("1", "http://own", JobSummary("text", "m", 80))
        else:
            end.now()

    report_lines(made, end, report, 0.001)
    assert lines == [
        "0 jobs, 0.0 kudos, 0.0 tokens/s",
        "0 jobs, 0.0 kudos, 0.0 tokens/s, 1 running: m (0 s)",
    ]


def test_settings_of_a_python_file_may_stand_beside_other_names(tmp_path: Path) -> None:
    path = tmp_path / "worker.py"
    path.write_text(
        "import os\nhordes = [{'url': 'http://own.invalid', 'api_key': 'k'}]\n"
        "backends = [{'url': 'echo'}]\n"
    )
    path.chmod(0o600)
    assert isinstance(read_worker_file(str(path)), WorkerSettings)


def test_the_workers_unit_is_hardened_as_the_proxys() -> None:
    def hardening(name: str) -> list[str]:
        text = (ROOT / "systemd" / name).read_text()
        return text.partition("DynamicUser")[2].partition("[Install]")[0].splitlines()[1:]

    worker, proxy = hardening("horde-proxy-worker.service"), hardening("horde-proxy.service")
    # It has no state and no reload, a cache of its own, and reads the machine's load.
    assert sorted(set(proxy) - set(worker)) == [
        "CacheDirectory=horde-proxy",
        "Environment=XDG_CACHE_HOME=%C/horde-proxy",
        "ProcSubset=pid",
        "RuntimeDirectory=horde-proxy",
        "RuntimeDirectoryMode=0700",
        "StateDirectory=horde-proxy",
    ]


@pytest.mark.parametrize(
    ("backend", "reason"),
    [
        ('url = "http://x"\nkind = "llama.cpp"\nbatch = 2', "batch is for a backend of images"),
        ('url = "http://x"\njobs = "text"\nkind = "sdapi"', "the kind sdapi does no jobs of text"),
        ('url = "http://x"\njobs = "image"\nkind = "vllm"', "the kind vllm does no jobs of image"),
        ('url = "x"\nkind = "a1111"', "use one of koboldai, .*, sdapi, comfyui, openai-images, "),
        ('url = "x"\nmax_pixels = 1', "greater than or equal to 4096"),
    ],
)
def test_settings_of_images_go_with_backends_of_images(
    tmp_path: Path, backend: str, reason: str
) -> None:
    text = MINIMAL.replace('url = "echo"', backend)
    with pytest.raises(ConfigError, match=reason):
        read_worker_file(written(tmp_path, text))


def test_a_painter_is_a_worker_for_images(tmp_path: Path) -> None:
    text = MINIMAL.replace('"echo"', '"painter"\nbatch = 3\n')
    bridge = opened(text, tmp_path)
    assert (bridge._kind.path, bridge._kind.offer(1).fields["amount"]) == ("generate", 3)


@responses.activate
def test_a_url_that_serves_no_texts_may_serve_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    serve(URL, FakeWebUI().app)
    bridge = opened(MINIMAL.replace('"echo"', f'"{URL}"'), tmp_path)
    assert bridge._kind.offer(1).fields["models"] == ["dreamshaper_8"]
    assert "dreamshaper_8 to http://own.invalid" in capsys.readouterr().err


@responses.activate
def test_a_vision_model_is_an_alchemist_where_the_settings_say_so(tmp_path: Path) -> None:
    serve(URL, FakeOpenAIImages("qwen-vl").app)
    text = MINIMAL.replace('"echo"', f'"{URL}"\njobs = "alchemy"\nmodels = ["qwen*"]')
    bridge = opened(text, tmp_path)
    assert (bridge._kind.path, bridge.name) == ("interrogate", "qwen-vl")
    assert "-alchemist-qwen-vl-" in bridge._hordes[0].identity.name
