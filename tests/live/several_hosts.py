"""Two proxies behind nginx on one PostgreSQL and one Redis, each a machine of a network of its own.

    client -> front: nginx, systemd/nginx-several-hosts.conf
                |-> a: horde-proxy serve --+--> data: PostgreSQL, Redis
                +-> b: horde-proxy serve --+--> horde: bench.quick_horde, a fake one

The settings are those of docs/several-hosts.md. A host is killed as by a power cut, or its cable is
pulled, and it is started again.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg
import requests

from bench.lab import CLIENT_KEY, MODEL
from tests.live import postgresql
from tests.live.network import Machine, Network
from tests.live.processes import until

ROOT = Path(__file__).parent.parent.parent
OURS = ROOT / "systemd" / "nginx-several-hosts.conf"
KEY, ADMIN = "sk-key-of-the-tests-client", "sk-key-of-the-tests-admin"
OWNER = "key-of-the-private-hordes-owner"
PORT = 8080
_QUIET: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
_NGINX = """
{user}
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 2048; }}
http {{
    log_format tests '$msec $request_method $request_uri $status $upstream_addr $upstream_status';
    access_log {folder}/access.log tests;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {server}
}}
"""


def obstacle() -> str:
    """Why this cannot run here, besides namespaces; "" where it can."""
    for program in ("nginx", "redis-server"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    return "" if find_spec("redis") else "the extra redis is not installed"


class Host:
    """A host with a proxy. `url` is its own address, past nginx."""

    def __init__(self, machine: Machine, settings: dict[str, str], folder: Path) -> None:
        self.machine, self._settings = machine, settings
        self.url = f"http://{machine.address}:{PORT}"
        self._log, self._folder = folder / f"{machine.name}.log", folder / machine.name
        self._folder.mkdir()

    def start(self) -> None:
        """Start the proxy. It has answered when this returns."""
        self.command("serve", "--bind", f"{self.machine.address}:{PORT}")
        until(self.is_up)

    def command(self, *words: str, output: Path | None = None) -> subprocess.Popen[bytes]:
        """A command of ours on this host, with its settings. It writes to the log, or a file."""
        folders = {"HOME": str(self._folder), "XDG_STATE_HOME": str(self._folder / "state")}
        folders["XDG_CACHE_HOME"] = str(self._folder / "cache")
        with (output or self._log).open("ab") as log:
            return self.machine.start(
                sys.executable,
                "-m",
                "horde_proxy",
                *words,
                env={**os.environ, **self._settings, **folders},
                cwd=ROOT,
                stdout=log,
                stderr=log,
            )

    def is_up(self) -> bool:
        try:
            return self.get("/health/ready").ok
        except requests.RequestException:
            return False

    def get(self, path: str, key: str = KEY, **options: Any) -> requests.Response:
        return self.request("GET", path, key, **options)

    def post(self, path: str, body: Any, key: str = KEY, **options: Any) -> requests.Response:
        return self.request("POST", path, key, json=body, **options)

    def request(self, method: str, path: str, key: str, **options: Any) -> requests.Response:
        """A call from the client's machine to this host. The private horde's key is the owner's."""
        headers = {"Authorization": f"Bearer {key}", **options.pop("headers", {})}
        if path.startswith("/api/v2"):
            headers = {"apikey": OWNER}
        client = self.machine.network["client"]
        url, seconds = self.url + path, options.pop("timeout", 60)
        return client.call(
            lambda: requests.request(method, url, headers=headers, timeout=seconds, **options)
        )

    def kill(self) -> None:
        self.machine.kill()
        until(lambda: not self.machine.processes())

    @property
    def log(self) -> str:
        return self._log.read_text()


class SeveralHosts:
    """All of it, started; `close` ends it. `settings` are more of them, for both hosts."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.folder = folder
        # PostgreSQL may run as another user, who has to reach its own folder below.
        self._data = tempfile.TemporaryDirectory()
        self.network = Network("a", "b", "client", "front", "data", "horde")
        self.client = self.network["client"]
        try:
            self._start(settings)
        except BaseException:
            self.close()
            raise

    def _start(self, settings: dict[str, str]) -> None:
        self._start_data()
        self.horde = self._start_horde()
        names = {f"HORDE_PROXY_{name.upper()}": value for name, value in settings.items()}
        common = {**self._settings(), **names}
        self.a, self.b = (Host(self.network[name], common, self.folder) for name in ("a", "b"))
        for host in (self.a, self.b):
            host.start()
        self.front = self._start_nginx()
        for host in (self.a, self.b):
            until(lambda host=host: MODEL in host.get("/v1/models").text)  # type: ignore[misc]

    def _settings(self) -> dict[str, str]:
        """The settings of both hosts: the same, but for the address."""
        database = self.database_url
        return {
            "AI_HORDE_API_KEY": CLIENT_KEY,
            "HORDE_PROXY_SERVER__TRUSTED_PROXIES": f'["{self.network["front"].address}"]',
            "HORDE_PROXY_ACCESS__MODE": "keys",
            "HORDE_PROXY_ACCESS__KEYS": f'{{"client": "{KEY}", "admin": "{ADMIN}"}}',
            "HORDE_PROXY_ACCESS__ADMINS": '["admin"]',
            "HORDE_PROXY_ACCESS__DATABASE": database,
            "HORDE_PROXY_STORE__DATABASE": database,
            "HORDE_PROXY_STATS__HISTORY_DATABASE": database,
            "HORDE_PROXY_PRIVATE_HORDE__ENABLED": "true",
            "HORDE_PROXY_PRIVATE_HORDE__API_KEY": OWNER,
            "HORDE_PROXY_PRIVATE_HORDE__DATABASE": database,
            "HORDE_PROXY_CACHE__REDIS_URL": f"redis://{self.network['data'].address}:6379/0",
            "HORDE_PROXY_ENDPOINTS": '[{"type": "horde", "name": "crowd"}]',
            "HORDE_PROXY_HORDE__URL": self.horde,
            "HORDE_PROXY_HORDE__VALIDATED_BACKENDS": "false",
            "HORDE_PROXY_HORDE__ADDRESS_LIMITS": "[]",
            "HORDE_PROXY_HORDE__KEY_LIMITS": "[]",
            # Tests and measurements send the same words again and again.
            "HORDE_PROXY_SERVER__LOOP_LIMIT": "0",
        }

    def _start_data(self) -> None:
        data = self.network["data"]
        server = postgresql.Postgresql(Path(self._data.name))
        os.chmod(self._data.name, 0o755)
        with (server.data / "pg_hba.conf").open("a") as rules:
            rules.write("host all all 10.203.0.0/24 scram-sha-256\n")
        command = [*server.program("postgres"), "-h", f"127.0.0.1,{data.address}", "-F"]
        options = ["-c", "unix_socket_directories=", "-c", "max_connections=200"]
        # nsenter needs root; the server refuses to run as root.
        identity = server.identity()
        user = ["setpriv", f"--reuid={identity['user']}", f"--regid={identity['group']}"]
        data.start(*user, "--clear-groups", *command, *options, cwd="/", **_QUIET)
        address = ["--bind", data.address, "--protected-mode", "no", "--save", ""]
        data.start("redis-server", *address, "--dir", self._data.name, **_QUIET)
        self._server = f"postgresql://tests:{postgresql.PASSWORD}@{data.address}:5432"
        self.database_url = f"{self._server}/proxy"
        until(lambda: data.call(self._has_database))

    def _has_database(self) -> bool:
        """Whether there is a database now."""
        try:
            with psycopg.connect(f"{self._server}/postgres", autocommit=True) as connection:
                connection.execute("CREATE DATABASE proxy")
        except psycopg.OperationalError:
            return False
        return True

    def _start_horde(self) -> str:
        """The URL of the fake horde, which counts its calls and answers "wait 3" after 3 s."""
        machine = self.network["horde"]
        url = f"http://{machine.address}:{PORT}"
        words = ["-m", "bench.quick_horde", machine.address, str(PORT), MODEL]
        machine.start(sys.executable, *words, cwd=ROOT, **_QUIET)
        until(lambda: self._answers(f"{url}/api/v2/status/heartbeat"))
        return url

    def _start_nginx(self) -> str:
        """The URL of nginx with our own server block, but for TLS and the port."""
        machine = self.network["front"]
        # What docs/several-hosts.md sets: a host that was cut off is noticed after seconds.
        machine.set_kernel(
            tcp_keepalive_time="10", tcp_keepalive_intvl="3", tcp_keepalive_probes="3"
        )
        machine.set_kernel(tcp_retries2="5")
        server = OURS.read_text().replace("443 ssl http2", f"{machine.address}:{PORT}")
        server = re.sub(r"\n\s+ssl_\w+\s.*;", "", server)
        folder = self.folder / "nginx"
        folder.mkdir()
        config = folder / "nginx.conf"
        config.write_text(_NGINX.format(folder=folder, server=server, user="user root;"))
        machine.start("nginx", "-c", str(config), "-p", str(folder), **_QUIET)
        url = f"http://{machine.address}:{PORT}"
        until(lambda: self._answers(f"{url}/health/live"))
        return url

    def _answers(self, url: str) -> bool:
        try:
            return self.client.call(lambda: requests.get(url, timeout=5)).ok
        except requests.RequestException:
            return False

    def horde_calls(self) -> dict[str, int]:
        """Calls of the fake horde: POSTs are submits, GETs polls, DELETEs cancels."""
        calls = self.client.call(lambda: requests.get(f"{self.horde}/calls", timeout=60)).json()
        counted: dict[str, int] = calls
        return counted

    def until_both_serve(self) -> None:
        """Wait until nginx sends requests to both hosts: fail_timeout after they answer."""
        for host in (self.a, self.b):
            until(host.is_up)
        time.sleep(6)

    def close(self) -> None:
        self.network.close()
        self._data.cleanup()
