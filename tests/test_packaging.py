"""The container file, compose and the samples for reverse proxies: rules that they must keep."""

from __future__ import annotations

import json
import re
import runpy
import tomllib
import urllib.request
from pathlib import Path

import pytest

from horde_proxy import config

ROOT = Path(__file__).parent.parent
# RUN useradd ..., but for the lines that it goes on in
_INSTRUCTION = re.compile(r"^([A-Z]+) +(.*)$", re.M)


def instructions(stage: int) -> list[tuple[str, str]]:
    """The instructions of a stage of the container file, each in a line."""
    text = (ROOT / "packaging" / "Containerfile").read_text().replace("\\\n", " ")
    lines = _INSTRUCTION.findall(text)
    starts = [index for index, (name, _) in enumerate(lines) if name == "FROM"]
    return lines[starts[stage] :][: (starts[1] - starts[0]) if stage == 0 else None]


def values(name: str) -> list[str]:
    return [value for found, value in instructions(1) if found == name]


def environment() -> dict[str, str]:
    [line] = values("ENV")
    return dict(pair.split("=", 1) for pair in line.split())


def test_the_container_runs_as_a_user_without_rights() -> None:
    assert values("USER") == ["10001:10001"]
    names = [name for name, _ in instructions(1)]
    assert names.index("USER") > max(i for i, name in enumerate(names) if name == "RUN")


def test_the_container_has_one_volume_and_keeps_all_data_there() -> None:
    assert values("VOLUME") == ["/data"]
    folders = environment()
    assert (folders["STATE_DIRECTORY"], folders["CACHE_DIRECTORY"]) == ("/data", "/data/cache")


def test_the_containers_settings_are_valid_and_let_in_nobody_without_a_key() -> None:
    settings = config.load(None, environ=environment())
    assert (settings.access.mode, settings.server.bind) == ("keys", "0.0.0.0:8080")


def test_no_instruction_downloads_by_hand_or_holds_a_key() -> None:
    text = (ROOT / "packaging" / "Containerfile").read_text()
    assert not re.search(r"\b(ADD|curl|wget|sudo|API_KEY)\b|:latest|chmod 777", text)
    assert [value for name, value in instructions(0) if name == "FROM"] == [
        "docker.io/library/python:3.13-slim AS build"
    ]


def test_the_healthcheck_reads_the_route_that_is_always_answered(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    [line] = values("HEALTHCHECK")
    program, option, code = json.loads(line.partition("CMD ")[2])
    urls: list[str] = []
    monkeypatch.setattr(urllib.request, "urlopen", lambda url, timeout: urls.append(url))
    script = tmp_path / "check.py"
    script.write_text(code)
    runpy.run_path(str(script))
    assert (program, option) == ("python", "-c")
    assert urls == ["http://127.0.0.1:8080/health/live"]


def test_compose_is_read_only_without_capabilities_and_with_one_volume() -> None:
    lines = [line.strip() for line in (ROOT / "packaging/compose.yaml").read_text().splitlines()]
    for rule in ("read_only: true", "- ALL", "- no-new-privileges:true", "- data:/data"):
        assert rule in lines
    # Longer than server.grace and the ten seconds after it.
    assert "stop_grace_period: 60s" in lines
    assert not {"privileged: true", "network_mode: host"} & set(lines)
    assert (ROOT / "packaging" / "Containerfile").exists()


def test_nginx_speaks_http_2_and_leaves_streams_uncompressed() -> None:
    text = (ROOT / "systemd" / "nginx.conf").read_text()
    assert "listen 443 ssl http2;" in text and "gzip on;" in text
    [types] = re.findall(r"gzip_types ([^;]+);", text)
    assert "application/json" in types.split()
    assert not {"text/event-stream", "application/x-ndjson"} & set(types.split())


@pytest.mark.parametrize(
    ("name", "rules"),
    [
        ("Caddyfile", ["flush_interval -1", "max_size 512MB", "response_header_timeout 900s"]),
        ("apache.conf", ["flushpackets=on", "nocanon", "timeout=900", "Protocols h2 http/1.1"]),
    ],
)
def test_a_sample_has_what_check_names(name: str, rules: list[str]) -> None:
    text = (ROOT / "systemd" / name).read_text()
    assert [rule for rule in rules if rule not in text] == []
    assert "event-stream" not in text


def test_the_sample_for_traefik_leads_each_name_to_what_it_names() -> None:
    """Traefik is not among Debian's packages, so its sample is read only."""
    sample = tomllib.loads((ROOT / "systemd" / "traefik.toml").read_text())["http"]
    router = sample["routers"]["horde-proxy"]
    service = sample["services"][router["service"]]["loadBalancer"]
    assert service["servers"] == [{"url": "http://127.0.0.1:8080"}]
    assert service["responseForwarding"]["flushInterval"] == "-1ns"
    [gzip] = router["middlewares"]
    assert (
        "text/event-stream" not in sample["middlewares"][gzip]["compress"]["includedContentTypes"]
    )
    timeouts = sample["serversTransports"][service["serversTransport"]]["forwardingTimeouts"]
    assert timeouts["responseHeaderTimeout"] == "900s"
