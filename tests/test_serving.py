"""What gunicorn is told, and which sockets it may serve; the rest is in live/."""

from __future__ import annotations

import socket
from pathlib import Path
from types import SimpleNamespace

import pytest
from gunicorn.config import Config as GunicornConfig

from horde_proxy import create_app, reconfigure, serving
from horde_proxy.app.factory import composition_of
from horde_proxy.app.reload import Reloader
from horde_proxy.config import Config, ConfigError, SettingsHandover, load
from horde_proxy.serving import (
    CannotListen,
    GunicornWorker,
    Logger,
    Server,
    check_port_free,
    gunicorn_settings,
)


def test_an_inherited_socket_that_others_can_reach_requires_an_access_mode(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(serving, "listen_fds", lambda unset: 1)
    monkeypatch.setattr(serving, "is_local", lambda fd: False)
    settings = load(environ={})
    with pytest.raises(ConfigError, match="set access.mode"):
        Server(settings, lambda: settings).run()


def test_an_ipv6_address_without_ipv6_is_refused_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where IPv6 is switched off, there is not even a socket to be had for it."""

    def missing(family: int) -> socket.socket:
        raise OSError(97, "Address family not supported by protocol")

    monkeypatch.setattr("horde_proxy.serving.socket.socket", missing)
    with pytest.raises(CannotListen, match=r"^cannot listen on \[::1\]:80 \(Address family"):
        check_port_free("[::1]:80")


@pytest.mark.parametrize(
    ("error", "messages"),
    [
        (BlockingIOError(11, "Resource temporarily unavailable"), []),
        (OSError(5, "Input/output error"), ["Socket error processing request."]),
    ],
)
def test_a_client_that_stalls_leaves_no_traceback(
    caplog: pytest.LogCaptureFixture, error: OSError, messages: list[str]
) -> None:
    logger = Logger(GunicornConfig())
    with caplog.at_level("WARNING"):
        try:
            raise error
        except OSError:
            logger.exception("Socket error processing request.")
    assert [each.getMessage() for each in caplog.records] == messages


@pytest.mark.parametrize(
    ("address", "network"),
    [("192.0.2.1", "192.0.2.1"), ("10.0.0.7", None), ("127.0.0.1", None)],
)
def test_a_trusted_proxy_may_have_many_connections(address: str, network: str | None) -> None:
    worker = GunicornWorker.__new__(GunicornWorker)
    worker.wsgi = create_app(
        load(environ={"HORDE_PROXY_SERVER__TRUSTED_PROXIES": '["10.0.0.0/8"]'})
    )
    assert worker.network_of(SimpleNamespace(client=(address, 5))) == network  # type: ignore[arg-type]


def test_a_body_is_received_up_to_the_largest_that_is_read_into_memory() -> None:
    worker = GunicornWorker.__new__(GunicornWorker)
    worker.wsgi = create_app(load(environ={"HORDE_PROXY_SERVER__MAX_BODY": "5000"}))
    assert worker.most_body() == 5000
    reconfigure(worker.wsgi, load(environ={"HORDE_PROXY_SERVER__MAX_BODY": "6000"}))
    assert worker.most_body() == 6000


def test_there_are_more_threads_than_waiting_chats() -> None:
    found = gunicorn_settings(load(environ={"HORDE_PROXY_SERVER__PLACES": "5"}))
    assert found["threads"] > 5
    assert found["worker_connections"] > found["threads"]


def test_gunicorn_waits_longer_than_the_grace_time() -> None:
    found = gunicorn_settings(load(environ={"HORDE_PROXY_SERVER__GRACE": "30"}))
    assert found["graceful_timeout"] > 30


def test_a_worker_that_replaces_a_killed_one_has_the_settings_in_use(tmp_path: Path) -> None:
    """Those of the start may be older, and open to more clients."""
    path = tmp_path / "config.py"
    path.write_text("import os\nserver = {'timeout': 5}\n")
    server = Server(load(str(path), {}), lambda: load(str(path), {}), str(path))
    first = server.load()
    path.write_text("import os\nendpoints = [{'url': 'http://home.invalid', 'models': ['a']}]\n")
    check: list[Config] = []
    Reloader(first, server.read_settings, check.append, [str(path)], server.handover.write).reload()
    second = composition_of(server.load()).settings
    assert second == check[0]
    assert second.endpoints[0].model_fields_set == {"url", "models", "name"}
    assert second.file == check[0].file


def test_a_version_of_the_settings_that_is_half_written_is_not_handed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    handover = SettingsHandover(load(environ={"HORDE_PROXY_SERVER__TIMEOUT": "5"}))
    valid = handover._memory[0]
    handover.write(load(environ={"HORDE_PROXY_SERVER__TIMEOUT": "6"}))
    assert handover.read().server.timeout == 6
    handover._memory[0] = valid
    assert handover.read().server.timeout == 5
    monkeypatch.setattr("horde_proxy.config.handover._ROOM", 10)
    with pytest.raises(ConfigError, match="larger than 16 MiB"):
        handover.write(load(environ={}))


def test_new_settings_without_access_mode_do_not_open_a_reachable_socket(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Without access.mode server.bind must be local, but the socket stays what it was."""
    monkeypatch.setattr(serving, "is_local", lambda fd: False)
    worker = GunicornWorker.__new__(GunicornWorker)
    worker.wsgi = create_app(load(environ={"HORDE_PROXY_ACCESS__MODE": "keys"}))
    worker.sockets = [SimpleNamespace(fileno=lambda: 3)]
    before = worker.wsgi.extensions["horde_proxy"]
    # The app has logged the code of the first start.
    caplog.clear()
    Reloader(worker.wsgi, lambda: load(environ={}), worker._check_sockets).reload()
    assert worker.wsgi.extensions["horde_proxy"] is before
    assert [each.getMessage() for each in caplog.records] == [
        "the settings were not reloaded: this address is reachable from other machines: "
        "set access.mode"
    ]


def test_a_signal_may_come_before_the_app_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = object.__new__(GunicornWorker)
    begun: list[object] = []
    worker.cfg, worker.alive = SimpleNamespace(graceful_timeout=30), True
    worker.method_queue = SimpleNamespace(defer=lambda call: None)
    monkeypatch.setattr(worker, "_in_background", lambda *call: begun.append(call))
    worker.handle_exit(15, None)
    worker._end_chats()
    assert not worker.alive
    assert len(begun) == 1
