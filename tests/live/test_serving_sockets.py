"""Which sockets the server may listen on, and what it does with them. They are real ones."""

from __future__ import annotations

import socket
import struct
from types import SimpleNamespace

import pytest
from gunicorn.workers.gthread import ThreadWorker

from horde_proxy import serving
from horde_proxy.config import ConfigError, load
from horde_proxy.serving import GunicornWorker, Server, is_local, limit_stalls


@pytest.mark.parametrize(
    ("family", "address", "expected"),
    [
        (socket.AF_INET, ("127.0.0.1", 0), True),
        (socket.AF_INET, ("0.0.0.0", 0), False),
        (socket.AF_INET6, ("::", 0), False),
        (socket.AF_UNIX, "", True),
    ],
)
def test_a_socket_is_local_by_its_address(
    family: int, address: tuple[str, int] | str, expected: bool
) -> None:
    """The sockets are bound, but nothing listens."""
    with socket.socket(family) as bound:
        bound.bind(address)
        assert is_local(bound.fileno()) == expected


def test_a_taken_port_ends_the_start_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """gunicorn would try for five seconds, and not say what to do."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setattr(serving, "_Master", lambda server: pytest.fail("it was started"))
        settings = load(environ={"PORT": str(taken.getsockname()[1])})
        with pytest.raises(RuntimeError, match=r"already in use\): choose another --bind"):
            Server(settings, lambda: settings).run()


def test_a_named_socket_that_lets_others_in_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "_Master", lambda server: pytest.fail("it was started"))
    with socket.socket() as bound:
        bound.bind(("0.0.0.0", 0))
        settings = load(environ={"HORDE_PROXY_SERVER__BIND": f"fd://{bound.fileno()}"})
        with pytest.raises(ConfigError, match="set access.mode"):
            Server(settings, lambda: settings).run()


def test_a_successor_that_is_handed_the_socket_may_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGUSR2 starts gunicorn anew while the one before still listens."""
    started: list[object] = []
    monkeypatch.setattr(
        serving, "_Master", lambda server: SimpleNamespace(run=lambda: started.append(server))
    )
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setenv("GUNICORN_FD", str(taken.fileno()))
        settings = load(environ={"PORT": str(taken.getsockname()[1])})
        server = Server(settings, lambda: settings)
        server.run()
    assert started == [server]


def test_a_client_that_stalls_does_not_hold_a_thread_for_ever() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        limit_stalls(listener, 0.05)
        with socket.create_connection(listener.getsockname()) as client:
            connection, _ = listener.accept()
            with connection:
                connection.setblocking(True)
                with pytest.raises(BlockingIOError):
                    connection.sendall(bytes(100_000_000))
                with pytest.raises(BlockingIOError):
                    connection.recv(1)
                assert client.recv(1) == b"\0"


def test_each_worker_gives_up_stalled_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ThreadWorker, "init_process", lambda self: None)
    worker = GunicornWorker.__new__(GunicornWorker)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        worker.sockets = [listener]
        worker.init_process()
        for option in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
            found = listener.getsockopt(socket.SOL_SOCKET, option, 16)
            assert struct.unpack("ll", found) == (300, 0)
