"""Clients take turns, by their weights; what nobody waits for goes after all others."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from horde_proxy.upstreams.fair_line import FairLine


@dataclass(frozen=True, eq=False)
class Request:
    client: str
    number: int
    weight: float = 1.0
    is_background: bool = False


def line_of(*requests: Request) -> FairLine[Request]:
    line: FairLine[Request] = FairLine()
    for request in requests:
        line.add(request)
    return line


def go_next(line: FairLine[Request]) -> Request:
    request = line.next(lambda request: True)
    assert request is not None
    line.take(request)
    return request


def order(line: FairLine[Request]) -> str:
    """The clients in the order in which they go, until the line is empty."""
    return "".join(go_next(line).client for _ in range(len(line)))


def test_clients_take_turns_however_many_requests_each_has() -> None:
    many = [Request("a", number) for number in range(4)]
    assert order(line_of(*many, Request("b", 4), Request("c", 5), Request("b", 6))) == "abcabaa"


def test_twice_the_weight_is_twice_as_many_turns() -> None:
    heavy = [Request("a", number, weight=2) for number in range(6)]
    light = [Request("b", 10 + number) for number in range(3)]
    assert order(line_of(*heavy, *light)) == "abaabaaba"


def test_half_a_weight_is_half_as_many_turns() -> None:
    plain = [Request("a", number) for number in range(4)]
    light = [Request("b", 10 + number, weight=0.5) for number in range(2)]
    assert order(line_of(*plain, *light)) == "abaaba"


def test_a_client_that_leaves_and_comes_back_gains_no_turn() -> None:
    line = line_of(Request("a", 0), Request("b", 1), Request("c", 2))
    assert go_next(line).client == "a"
    line.add(Request("a", 3))
    assert order(line) == "bca"


def test_a_request_that_comes_again_goes_before_later_ones_of_its_client() -> None:
    line = line_of(Request("a", 1), Request("a", 2))
    line.add(Request("a", 0))
    assert [go_next(line).number for _ in range(3)] == [0, 1, 2]


def test_background_goes_after_people_of_all_clients() -> None:
    batch = [Request("a", number, is_background=True) for number in range(2)]
    other = Request("b", 2, is_background=True)
    line = line_of(*batch, other, Request("c", 3), Request("a", 4))
    assert order(line) == "caaba"


def test_what_may_not_go_is_passed_over_and_keeps_its_turn() -> None:
    first, second, other = Request("a", 0), Request("a", 1), Request("b", 2)
    line = line_of(first, second, other)
    assert line.next(lambda request: request is not first) is second
    line.take(second)
    assert [go_next(line) for _ in range(2)] == [other, first]
    assert line.next(lambda request: True) is None


def test_what_was_removed_is_gone_and_may_be_removed_again() -> None:
    first, second = Request("a", 0), Request("a", 1)
    line = line_of(first, second)
    for _ in range(2):
        line.remove(first)
    assert (len(line), first in line, second in line) == (1, False, True)
    line.remove(second)
    assert (len(line), line._lines, line._turns) == (0, {}, [])


@given(
    st.lists(
        st.tuples(st.sampled_from("abcd"), st.sampled_from([0.5, 1, 2, 4]), st.booleans()),
        max_size=25,
    ),
    st.integers(0, 10),
)
def test_the_positions_are_the_order_in_which_requests_go(
    arrivals: list[tuple[str, float, bool]], gone: int
) -> None:
    weights = {client: weight for client, weight, _ in arrivals}
    requests = [
        Request(client, number, weights[client], is_background)
        for number, (client, _, is_background) in enumerate(arrivals)
    ]
    line = line_of(*requests)
    for _ in range(min(gone, len(line))):
        go_next(line)
    waiting = [request for request in requests if request in line]
    positions = {request: line.position(request) for request in waiting}
    assert line.positions() == positions
    order = [go_next(line) for _ in range(len(line))]
    assert [positions[request] for request in order] == list(range(1, len(order) + 1))


_WEIGHTS = st.one_of(
    st.sampled_from([0.3, 0.7, 1.1, 2.5, 3, 7, 7.5]), st.floats(0.01, 100, allow_nan=False)
)


@given(
    st.dictionaries(st.sampled_from("abcd"), _WEIGHTS, min_size=2),
    st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 3)), max_size=30),
)
def test_positions_are_right_with_any_weights_and_where_requests_were_passed_over(
    weights: dict[str, float], steps: list[tuple[str, int]]
) -> None:
    """Of four steps one lets a client go that is not the next one."""
    line: FairLine[Request] = FairLine()
    waiting: list[Request] = []
    for number, (client, kind) in enumerate(steps):
        others = [request for request in waiting if request.client == client]
        if kind == 0 and others:
            line.take(others[0])
            waiting.remove(others[0])
        elif kind == 1 and waiting:
            waiting.remove(go_next(line))
        elif client in weights:
            waiting.append(Request(client, number, weights[client]))
            line.add(waiting[-1])
    positions = {request: line.position(request) for request in waiting}
    assert line.positions() == positions
    order = [go_next(line) for _ in range(len(line))]
    assert [positions[request] for request in order] == list(range(1, len(order) + 1))


def test_a_client_with_a_third_of_the_weight_goes_at_the_time_of_every_third_turn() -> None:
    """0.1 + 0.1 + 0.1 is not 0.3: as fractions, the light client would go late or early."""
    heavy = [Request("a", number, weight=3) for number in range(6)]
    light = [Request("b", 10 + number, weight=1) for number in range(2)]
    line = line_of(*heavy, *light)
    assert [line.position(request) for request in light] == [3, 7]
    assert order(line) == "aabaaaba"


@given(st.lists(st.tuples(st.sampled_from("abcde"), st.booleans(), st.booleans()), max_size=60))
def test_with_equal_weights_it_is_a_round_robin(steps: list[tuple[str, bool, bool]]) -> None:
    line: FairLine[Request] = FairLine()
    waiting: dict[tuple[bool, str], deque[Request]] = {}
    turns: dict[bool, deque[tuple[bool, str]]] = {False: deque(), True: deque()}
    for number, (client, is_background, is_arrival) in enumerate(steps):
        if is_arrival:
            request = Request(client, number, is_background=is_background)
            line.add(request)
            key = (is_background, client)
            if key not in waiting:
                waiting[key] = deque()
                turns[is_background].append(key)
            waiting[key].append(request)
        elif waiting:
            own = turns[False] or turns[True]
            key = own.popleft()
            assert go_next(line) is waiting[key].popleft()
            if waiting[key]:
                own.append(key)
            else:
                del waiting[key]
    assert len(line) == sum(map(len, waiting.values()))


@given(st.dictionaries(st.sampled_from("abcdef"), st.sampled_from([0.5, 1, 2, 3, 7.5]), min_size=1))
def test_busy_clients_get_turns_by_their_weights(weights: dict[str, float]) -> None:
    line: FairLine[Request] = FairLine()
    numbers = iter(range(10**6))
    for client, weight in weights.items():
        line.add(Request(client, next(numbers), weight))
    turns: Counter[str] = Counter()
    rounds = 40
    for _ in range(int(rounds * sum(weights.values()))):
        request = go_next(line)
        turns[request.client] += 1
        # Each is always in line again before its next turn.
        line.add(Request(request.client, next(numbers), request.weight))
    for client, weight in weights.items():
        assert abs(turns[client] - rounds * weight) <= weight + 1
