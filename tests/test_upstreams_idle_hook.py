"""What runs once nobody has used an endpoint for a while."""

from __future__ import annotations

from collections.abc import Sequence

from horde_proxy.router.circuit_breaker import CircuitBreaker
from horde_proxy.telemetry import Telemetry
from horde_proxy.upstreams.idle_hook import Hook, IdleHook, SharedUse
from horde_proxy.upstreams.power import PowerState
from tests.support import Clock
from tests.test_upstreams_power import Machine

SUSPEND = ("ssh", "desktop", "systemctl", "suspend")


class Runs(Telemetry):
    """Notes each run of a hook, which fails for the reason `problem`."""

    def __init__(self) -> None:
        self.calls: list[tuple[Hook, str, float]] = []
        self.results: list[tuple[str, bool]] = []
        self.problem: str | None = None
        self.fault: Exception | None = None

    def __call__(self, hook: Hook, endpoint: str, idle: float) -> str | None:
        self.calls.append((hook, endpoint, idle))
        if self.fault is not None:
            raise self.fault
        return self.problem

    def idle_hook_ran(self, endpoint: str, ok: bool) -> None:
        self.results.append((endpoint, ok))


class Used:
    """An endpoint with a hook after ten minutes; one request runs from `begin` to `end`."""

    def __init__(
        self,
        hook: str | Sequence[str] = SUSPEND,
        machine: Machine | None = None,
        shared: SharedUse | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.clock = machine.clock if machine else clock or Clock()
        self.breaker, self.runs = CircuitBreaker(clock=self.clock), Runs()
        self.hook = IdleHook(
            "desktop",
            hook,
            600.0,
            self.breaker,
            power=machine.power if machine else None,
            shared=shared,
            server="desktop http://192.168.1.2",
            run_hook=self.runs,
            clock=self.clock,
            run_later=self.clock.run_later,
            telemetry=self.runs,
        )
        self.hook.start()

    def begin(self) -> None:
        self.attempt = self.breaker.try_acquire()

    def end(self) -> None:
        assert self.attempt
        self.attempt.end()

    def pass_minutes(self, minutes: int) -> None:
        for _ in range(minutes * 6):
            self.clock.sleep(10.0)

    def count(self) -> int:
        return len(self.runs.calls)


class SharedMemory:
    """What proxies share: until when each uses a server, and who has claimed what until when."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.used: dict[tuple[str, str], float] = {}
        self.claimed: dict[str, float] = {}

    def of(self, process: str) -> SharedUse:
        return OwnUse(self, process)


class OwnUse:
    """The shared memory as one process has it."""

    def __init__(self, memory: SharedMemory, process: str) -> None:
        self.memory, self.process = memory, process

    def note(self, name: str, seconds: float) -> None:
        self.memory.used[name, self.process] = self.memory.clock() + seconds

    def is_used_elsewhere(self, name: str) -> bool:
        return any(
            until > self.memory.clock() and process != self.process
            for (used, process), until in self.memory.used.items()
            if used == name
        )

    def claim(self, name: str, seconds: float) -> bool:
        if self.memory.claimed.get(name, 0.0) > self.memory.clock():
            return False
        self.memory.claimed[name] = self.memory.clock() + seconds
        return True


def two_proxies() -> tuple[Used, Used]:
    """Two proxies before one server, which share its use."""
    clock = Clock()
    memory = SharedMemory(clock)
    one, two = (Used(shared=memory.of(name), clock=clock) for name in ("one", "two"))
    return one, two


def test_one_of_two_proxies_runs_the_hook_once_neither_uses_the_server() -> None:
    one, two = two_proxies()
    one.pass_minutes(5)
    two.begin()
    one.pass_minutes(20)
    assert (one.count(), two.count()) == (0, 0)
    two.end()
    one.pass_minutes(9)
    assert (one.count(), two.count()) == (0, 0)
    one.pass_minutes(2)
    assert one.count() + two.count() == 1
    one.pass_minutes(120)
    assert one.count() + two.count() == 1


def test_a_proxy_runs_the_hook_again_for_another_one_that_was_killed_after_its_use() -> None:
    one, two = two_proxies()
    one.pass_minutes(11)
    assert one.count() + two.count() == 1
    two.begin()
    one.pass_minutes(1)
    # Killed: it neither notes its use any more nor runs a hook.
    two.hook.stop()
    one.pass_minutes(12)
    assert one.count() + two.count() == 2


def test_a_hook_runs_once_after_ten_minutes_without_a_request() -> None:
    used = Used()
    used.pass_minutes(9)
    assert used.runs.calls == []
    used.pass_minutes(1)
    assert used.runs.calls == [(SUSPEND, "desktop", 600.0)]
    used.pass_minutes(120)
    assert used.count() == 1
    assert used.runs.results == [("desktop", True)]


def test_a_hook_runs_again_after_the_next_use() -> None:
    used = Used()
    used.pass_minutes(65)
    used.begin()
    used.end()
    used.pass_minutes(9)
    assert used.count() == 1
    used.pass_minutes(2)
    assert used.count() == 2
    used.pass_minutes(60)
    assert used.count() == 2


def test_a_request_that_runs_keeps_the_hook_from_running_and_its_end_counts() -> None:
    used = Used()
    used.begin()
    used.pass_minutes(60)
    assert used.count() == 0
    used.end()
    used.pass_minutes(9)
    assert used.count() == 0
    used.pass_minutes(2)
    assert used.count() == 1


def test_a_hook_that_fails_is_reported_and_not_repeated() -> None:
    used = Used("http://192.168.1.2/sleep")
    used.runs.problem = "its URL answered 500"
    used.pass_minutes(60)
    assert (used.count(), used.runs.results) == (1, [("desktop", False)])


def test_a_hook_of_settings_that_changed_never_runs() -> None:
    used = Used()
    used.hook.stop()
    used.pass_minutes(60)
    assert used.count() == 0


def test_a_machine_whose_hook_ran_is_asleep() -> None:
    machine = Machine()
    machine.is_up = True
    used = Used(machine=machine)
    used.pass_minutes(11)
    assert (used.count(), machine.power.state) == (1, PowerState.ASLEEP)


def test_a_machine_whose_hook_failed_is_awake() -> None:
    machine = Machine()
    machine.is_up = True
    used = Used(machine=machine)
    used.runs.problem = "ssh ended with status 255"
    used.pass_minutes(11)
    assert (used.count(), machine.power.state) == (1, PowerState.AWAKE)


def test_a_machine_whose_hook_could_not_be_run_is_awake() -> None:
    """A full temporary folder, or a word with a zero byte."""
    machine = Machine()
    machine.is_up = True
    used = Used(machine=machine)
    used.runs.fault = ValueError("embedded null byte")
    used.pass_minutes(11)
    assert (used.count(), machine.power.state) == (1, PowerState.AWAKE)
    assert used.runs.results == [("desktop", False)]


def test_the_hook_of_a_machine_that_sleeps_by_itself_does_not_run() -> None:
    used = Used(machine=Machine())
    used.pass_minutes(60)
    assert used.count() == 0


def test_a_machine_does_not_fall_asleep_under_a_request_that_comes_at_that_moment() -> None:
    machine = Machine()
    machine.is_up = True
    used = Used(machine=machine)
    answers = machine.power._answers

    def a_request_comes() -> bool:
        used.begin()
        return answers()

    machine.power._answers = a_request_comes
    used.pass_minutes(11)
    assert (used.count(), machine.power.state) == (0, PowerState.AWAKE)
