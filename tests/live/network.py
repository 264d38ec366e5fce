"""Machines and the network between them, as namespaces of Linux: nothing leaves this machine.

    root namespace: the tests, untouched       switch: a namespace with a bridge
    machine "a":  eth0 10.203.0.11 ---veth---- port of the bridge
    machine "b":  eth0 10.203.0.12 ---veth---- port of the bridge

`cut` takes the port of a machine down: what it sends is lost, and nobody is told. Programs start in
a machine by `nsenter`; a thread of the tests joins one by `joined`. `Network.close` ends all
programs that still run there and removes the namespaces; it is safe to call twice. What a run of
tests has left that was killed itself, the next network removes: names have the id of their process.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import secrets
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

T = TypeVar("T")
_CLONE_NEWNET = 0x40000000
"""From linux/sched.h; Python has os.setns since 3.12 only."""
SUBNET = "10.203.0"
_NUMBERS = itertools.count()


def obstacle() -> str:
    """Why no namespaces can be made here; "" where they can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    missing = [name for name in ("ip", "nsenter") if shutil.which(name) is None]
    if missing:
        return f"{missing[0]} is not installed"
    name = f"hp{os.getpid()}-{secrets.token_hex(3)}-try"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if made.returncode:
        return f"network namespaces are not permitted: {made.stderr.strip()}"
    try:
        pair = ["ip", "-n", name, "link", "add", "left", "type", "veth", "peer", "name", "right"]
        bridge = ["ip", "-n", name, "link", "add", "switch", "type", "bridge"]
        for command in (pair, bridge):
            made = subprocess.run(command, capture_output=True, text=True)
            if made.returncode:
                return f"virtual networks are not permitted: {made.stderr.strip()}"
    finally:
        subprocess.run(["ip", "netns", "del", name], capture_output=True)
    return ""


_OBSTACLE = obstacle()
needs_namespaces = pytest.mark.skipif(bool(_OBSTACLE), reason=_OBSTACLE)


class Machine:
    """A namespace with one address. `name` is the word for it, `namespace` the kernel's name."""

    def __init__(self, network: Network, name: str, number: int) -> None:
        self.network, self.name, self.number = network, name, number
        self.namespace = f"{network.prefix}-{name}"
        self.address = f"{SUBNET}.{number}"

    def start(self, *command: str, **options: Any) -> subprocess.Popen[bytes]:
        """A program of this machine, in a session of its own."""
        inside = ["nsenter", f"--net=/run/netns/{self.namespace}", "--", *command]
        process = subprocess.Popen(inside, start_new_session=True, **options)
        self.network.started.append(process)
        return process

    def kill(self) -> None:
        """Kill all that runs here at once, as a power cut would."""
        for pid in self.processes():
            _kill(pid)

    def processes(self) -> list[int]:
        """The ids of all processes in this namespace."""
        return _processes_in(self.namespace)

    def cut(self) -> None:
        """Cut the cable: nobody is told that nothing arrives any more."""
        self.network.set_port(self, "down")

    def mend(self) -> None:
        """Plug the cable in again."""
        self.network.set_port(self, "up")

    def set_kernel(self, **settings: str) -> None:
        """Set parameters of the kernel that a namespace has of its own, by their last names."""
        for name, value in settings.items():
            path = f"/proc/sys/net/ipv4/{name}"
            self.run("sh", "-c", f"echo {value} > {path}")

    def run(self, *command: str) -> None:
        inside = ["nsenter", f"--net=/run/netns/{self.namespace}", "--", *command]
        subprocess.run(inside, check=True)

    @contextmanager
    def joined(self) -> Iterator[None]:
        """Within it, the sockets that this thread opens are this machine's."""
        with open("/proc/thread-self/ns/net") as before:
            _enter(Path("/run/netns") / self.namespace)
            try:
                yield
            finally:
                _set_namespace(before.fileno())

    def pool(self, threads: int) -> ThreadPoolExecutor:
        """Threads whose sockets are this machine's."""
        return ThreadPoolExecutor(
            threads, initializer=_enter, initargs=(Path("/run/netns") / self.namespace,)
        )

    def call(self, function: Callable[[], T]) -> T:
        """What a function returns that runs in this machine."""
        with self.joined():
            return function()


class Network:
    """Machines on one switch, by name, with the addresses 10.203.0.1 and so on."""

    def __init__(self, *names: str) -> None:
        _remove_what_is_left()
        self.prefix = f"hp{os.getpid()}-{next(_NUMBERS)}"
        self.started: list[subprocess.Popen[bytes]] = []
        self._switch = f"{self.prefix}-switch"
        self.machines = {name: Machine(self, name, number) for number, name in enumerate(names, 11)}
        try:
            self._build()
        except BaseException:
            self.close()
            raise

    def __getitem__(self, name: str) -> Machine:
        return self.machines[name]

    def set_port(self, machine: Machine, state: str) -> None:
        """Set the switch's port of a machine "up" or "down"."""
        _ip("-n", self._switch, "link", "set", f"port{machine.number}", state)

    def _build(self) -> None:
        _ip("netns", "add", self._switch)
        _ip("-n", self._switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", self._switch, "link", "set", "bridge", "up")
        for machine in self.machines.values():
            port, inside = f"port{machine.number}", ("-n", machine.namespace)
            _ip("netns", "add", machine.namespace)
            pair = ("type", "veth", "peer", "name", "eth0", "netns", machine.namespace)
            _ip("-n", self._switch, "link", "add", port, *pair)
            _ip("-n", self._switch, "link", "set", port, "master", "bridge", "up")
            _ip(*inside, "link", "set", "lo", "up")
            _ip(*inside, "link", "set", "eth0", "up")
            _ip(*inside, "address", "add", f"{machine.address}/24", "dev", "eth0")

    def close(self) -> None:
        """End what still runs, and remove the namespaces."""
        for process in self.started:
            if process.poll() is None:
                process.terminate()
        for process in self.started:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
        names = [*(machine.namespace for machine in self.machines.values()), self._switch]
        for name in names:
            for pid in _processes_in(name):
                _kill(pid)
        for process in self.started:
            process.wait()
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


def _processes_in(namespace: str) -> list[int]:
    found = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True)
    # A thread of the tests may be in it.
    return [pid for pid in map(int, found.stdout.split()) if pid != os.getpid()]


def _remove_what_is_left() -> None:
    """Remove networks of processes that have ended without doing so, with all that runs there."""
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout
    for line in listed.splitlines():
        # "hp4711-0-front (id: 3)"
        name = line.partition(" ")[0]
        maker = name.partition("-")[0].removeprefix("hp")
        if name.startswith("hp") and maker.isdigit() and not Path(f"/proc/{maker}").exists():
            for pid in _processes_in(name):
                _kill(pid)
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        """It has ended by itself."""


def _enter(namespace: Path) -> None:
    """Join a namespace with this thread."""
    with namespace.open() as file:
        _set_namespace(file.fileno())


def _set_namespace(descriptor: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, _CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, f"thread {threading.get_ident()}: {os.strerror(number)}")
