"""Machines that sleep: magic packets, the states of a machine, and how it is woken."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from horde_proxy.caching.background import inline
from horde_proxy.telemetry import Telemetry
from horde_proxy.upstreams.power import Power, PowerState
from horde_proxy.upstreams.wake_on_lan import (
    Datagram,
    mac_address,
    magic_packet,
    magic_packets,
    server_address,
    wake_address,
)
from tests.support import Clock

MAC = "aa:bb:cc:dd:ee:ff"


def test_a_magic_packet_is_six_bytes_of_ff_and_sixteen_times_the_address() -> None:
    packet = magic_packet(mac_address("02:00:5e:10:00:ff"))
    assert packet == bytes.fromhex("ffffffffffff" + "02005e1000ff" * 16)
    assert len(packet) == 102


@pytest.mark.parametrize(
    "text",
    [
        "aa:bb:cc:dd:ee:ff",
        "AA-BB-CC-DD-EE-FF",
        "aabb.ccdd.eeff",
        "aabbccddeeff",
        " aa:bb:cc:dd:ee:ff ",
    ],
)
def test_an_address_of_a_card_is_read_as_systems_write_it(text: str) -> None:
    assert mac_address(text) == b"\xaa\xbb\xcc\xdd\xee\xff"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "desktop",
        "aa:bb:cc:dd:ee",
        "aa:bb:cc:dd:ee:ff:00",
        "aa:bb-cc:dd:ee:ff",
        "gg:bb:cc:dd:ee:ff",
        "00:00:00:00:00:00",
        "ff:ff:ff:ff:ff:ff",
        "01:00:5e:00:00:fb",
    ],
)
def test_what_is_no_address_of_one_card_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="MAC address"):
        mac_address(text)


def test_packets_go_to_the_broadcast_address_and_out_to_the_servers_own_network() -> None:
    packet = magic_packet(mac_address(MAC))
    assert magic_packets(mac_address(MAC), None, "http://192.168.1.20:11434/v1") == [
        Datagram(packet, "255.255.255.255", 9),
        Datagram(packet, "255.255.255.255", 9, "192.168.1.20"),
    ]


def test_packets_go_to_the_address_of_the_settings_alone() -> None:
    address = wake_address("192.168.7.255:7")
    assert magic_packets(mac_address(MAC), address, "http://desktop.lan:11434") == [
        Datagram(magic_packet(mac_address(MAC)), "192.168.7.255", 7)
    ]
    assert wake_address("192.168.7.255") == ("192.168.7.255", 9)


@pytest.mark.parametrize(
    "text", ["", "192.168.1.255:0", "192.168.1.255:65536", "a b", "host:", "[::1]:9"]
)
def test_an_address_for_packets_is_a_host_and_a_port(text: str) -> None:
    with pytest.raises(ValueError, match="HOST:PORT"):
        wake_address(text)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://192.168.1.20:11434/v1", ("192.168.1.20", 11434)),
        ("http://desktop.lan", ("desktop.lan", 80)),
        ("https://desktop.lan/llm", ("desktop.lan", 443)),
        ("http://[fd00::20]:8080", ("fd00::20", 8080)),
    ],
)
def test_the_port_of_a_server_is_that_of_its_url(url: str, address: tuple[str, int]) -> None:
    assert server_address(url) == address


class Machine:
    """A machine under a test's clock: it boots in `boot` seconds after the first packet."""

    def __init__(self, boot: float | None = 30.0, **options: Any) -> None:
        self.clock, self.boot = Clock(), boot
        self.is_up, self.looks, self.sent = False, 0, list[float]()
        self.reports: list[tuple[str, float | None]] = []
        self.power = Power(
            "desktop",
            magic_packets(mac_address(MAC), ("192.168.1.255", 9), "http://desktop.lan"),
            self.answers,
            **{
                "send": self.send,
                "clock": self.clock,
                "run": inline,
                "run_later": self.clock.run_later,
                "telemetry": Woken(self.reports),
                **options,
            },
        )
        self.power.look_by(self.look)

    def send(self, datagram: Datagram) -> None:
        self.sent.append(self.clock())
        if self.boot is not None and not self.is_up and len(self.sent) == 1:
            self.clock.run_later(self.boot, self.start)

    def start(self) -> None:
        self.is_up = True

    def answers(self) -> bool:
        self.looks += 1
        return self.is_up

    def look(self) -> None:
        """As the load of the models, which reports what it found."""
        self.looks += 1
        (self.power.answered if self.is_up else self.power.unreachable)()

    def pass_time(self, seconds: int) -> None:
        for _ in range(seconds):
            self.clock.sleep(1.0)


class Woken(Telemetry):
    def __init__(self, reports: list[tuple[str, float | None]]) -> None:
        self._reports = reports

    def woken(self, endpoint: str, seconds: float | None) -> None:
        self._reports.append((endpoint, seconds))


def test_a_machine_that_answers_is_awake_and_is_looked_at_only_after_a_while() -> None:
    machine = Machine()
    machine.is_up = True
    assert machine.power.check() and machine.looks == 1
    machine.pass_time(4)
    assert machine.power.check() and machine.looks == 1
    machine.pass_time(2)
    assert machine.power.check() and machine.looks == 2
    assert machine.power.state is PowerState.AWAKE
    assert machine.power.seconds_to_wake() == 0.0


def test_a_machine_that_does_not_answer_is_asleep_and_nothing_more_is_sent_to_it() -> None:
    machine = Machine()
    assert machine.power.check() is False
    assert machine.power.state is PowerState.ASLEEP
    machine.pass_time(600)
    assert machine.power.check() is False
    assert machine.power.may_look() is False
    assert (machine.looks, machine.sent) == (1, [])


def test_a_packet_is_sent_every_five_seconds_until_the_machine_answers() -> None:
    machine = Machine(boot=12)
    began = machine.clock()
    wake_up = machine.power.wake()
    assert machine.power.state is PowerState.WAKING
    machine.pass_time(11)
    assert (wake_up.has_ended, machine.power.is_awake) == (False, False)
    machine.pass_time(2)
    assert (wake_up.has_ended, wake_up.error, machine.power.is_awake) == (True, None, True)
    assert [at - began for at in machine.sent] == [0, 5, 10]
    assert machine.reports == [("desktop", 12.0)]
    machine.pass_time(60)
    assert len(machine.sent) == 3


def test_all_clients_wait_for_one_wake_up() -> None:
    machine = Machine()
    first = machine.power.wake()
    assert machine.power.wake() is first
    machine.pass_time(3)
    assert machine.power.wake() is first
    assert len(machine.sent) == 1


def test_a_machine_that_never_boots_is_asleep_again_with_a_reason() -> None:
    machine = Machine(boot=None, boot_seconds=20)
    wake_up = machine.power.wake()
    machine.pass_time(19)
    assert not wake_up.has_ended
    machine.pass_time(2)
    assert wake_up.has_ended
    assert str(wake_up.error) == (
        "it did not wake up within 20 s. The owner of this proxy should look at `wake`, at "
        "Wake-on-LAN in the settings of its machine, and at `boot_seconds`"
    )
    assert machine.power.state is PowerState.ASLEEP
    assert machine.reports == [("desktop", None)]
    assert machine.power.wake() is not wake_up


def test_the_forecast_is_the_longest_boot_first_and_the_last_one_afterwards() -> None:
    machine = Machine(boot=30, boot_seconds=100)
    machine.power.unreachable()
    assert machine.power.seconds_to_wake() == 100
    machine.power.wake()
    machine.pass_time(10)
    assert machine.power.seconds_to_wake() == 90
    machine.pass_time(25)
    machine.is_up = False
    machine.power.unreachable()
    assert machine.power.seconds_to_wake() == pytest.approx(30, abs=1)
    machine.power.wake()
    machine.pass_time(40)
    # It takes longer than the last time.
    assert machine.power.seconds_to_wake() == 60


def test_a_packet_that_cannot_be_sent_is_the_reason_if_none_can() -> None:
    def fail(datagram: Datagram) -> None:
        raise OSError(101, "Network is unreachable")

    machine = Machine(boot=None, boot_seconds=10, send=fail)
    wake_up = machine.power.wake()
    machine.pass_time(11)
    assert str(wake_up.error) == (
        "it cannot be woken: no packet can be sent (192.168.1.255: Network is unreachable)"
    )


def test_a_machine_that_somebody_else_started_is_awake_although_no_packet_could_be_sent() -> None:
    def fail(datagram: Datagram) -> None:
        raise OSError(101, "Network is unreachable")

    machine = Machine(send=fail)
    machine.is_up = True
    machine.power.unreachable()
    wake_up = machine.power.wake()
    assert (wake_up.has_ended, wake_up.error) == (True, None)


def test_a_wake_up_ends_where_no_thread_can_be_started() -> None:
    def run(call: Callable[[], None]) -> None:
        raise RuntimeError("can't start new thread")

    machine = Machine(run=run)
    wake_up = machine.power.wake()
    assert wake_up.has_ended
    assert str(wake_up.error) == "it cannot be woken: this proxy cannot start a thread"


def test_a_machine_that_is_told_to_sleep_counts_as_awake_only_after_it_has_settled() -> None:
    machine = Machine(boot=None)
    machine.is_up = True
    assert machine.power.check()
    machine.power.put_to_sleep()
    assert machine.power.state is PowerState.ASLEEP
    # A request comes while the hook runs: the packet goes out, but nothing is looked at yet.
    looks, wake_up = machine.looks, machine.power.wake()
    machine.power.sleep_command_ended(is_done=True)
    machine.pass_time(9)
    assert (machine.looks, wake_up.has_ended, len(machine.sent)) == (looks, False, 2)
    machine.pass_time(2)
    assert (wake_up.has_ended, machine.power.is_awake) == (True, True)


def test_a_machine_stays_awake_where_its_hook_failed() -> None:
    machine = Machine()
    machine.is_up = True
    assert machine.power.check()
    machine.power.put_to_sleep()
    machine.power.sleep_command_ended(is_done=False)
    assert machine.power.is_awake and machine.power.may_look()


def test_a_wake_up_that_follows_at_once_is_looked_for_once_a_second() -> None:
    """The steps of one that has ended must not go on with those of the next one."""
    machine = Machine(boot=None)
    for _ in range(5):
        machine.power.wake()
        machine.power.answered()
    machine.power.wake()
    machine.looks = 0
    machine.pass_time(10)
    assert machine.looks == 10
