"""The contract of an upstream: a stream of Accepted, Waiting and chunks; and who calls it.

`stream(request, route, caller)` yields Accepted first, once the upstream has taken the request.
Until then nothing has been sent to the client, so that a ProxyError keeps its real status. A
further Accepted follows an early one, or says, from the router, that another upstream has taken
over.
Closing the generator cancels what still runs. Chunks are OpenAI's: for each choice a role chunk
first (chunks.role_chunk), and the usage last.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

from horde_proxy.errors import ProxyError, TimedOut, UpstreamFailed
from horde_proxy.protocol.chunks import Chunk
from horde_proxy.protocol.generation_request import GenerationRequest
from horde_proxy.protocol.image_request import ImageRequest, Picture
from horde_proxy.upstreams.inspection import Inspection
from horde_proxy.upstreams.proxying import ProxyRequest, ProxyResponse
from horde_proxy.upstreams.request_journal import RequestJournal

if TYPE_CHECKING:
    from horde_proxy.upstreams.disconnects import CallGuard


class DeadlinePassed(TimedOut):
    """The caller's time is over."""

    def __init__(self) -> None:
        super().__init__("The answer did not come within the time that this proxy waits for one.")


MOST_SUBMITS = 500
"""Submits of one chat. The longest chat of today makes about 260: 4096 tokens in segments of 64
(what a faulted job is cut to), for each of 4 choices. Twelve guided leaves add little to that."""


class SubmitsUsedUp(UpstreamFailed):
    """Retries, segments, corrections and guided leaves together came to the bound."""

    code = "too_many_submits"

    def __init__(self, most: int) -> None:
        super().__init__(
            f"This answer already took {most} requests to the horde and is not complete. "
            "Ask for fewer tokens, or for a simpler schema."
        )


class SubmitBudget:
    """Counts what one chat submits, over all of its retries, segments and upstreams.

    Only the thread whose turn it is to drive the chat counts, so that there is no lock.
    """

    def __init__(self, most: int = MOST_SUBMITS) -> None:
        self.most, self.used = most, 0

    def take(self) -> None:
        """Count one more submit. Raises SubmitsUsedUp instead of exceeding the bound."""
        if self.used >= self.most:
            raise SubmitsUsedUp(self.most)
        self.used += 1

    def give_back(self) -> None:
        """Uncount the last submit: it did not reach the horde."""
        self.used -= 1


@dataclass
class SecondRequests:
    """What of one answer is requested a second time now, so that it is not requested a third time.

    `of_jobs` counts jobs of a horde, `is_of_answer` is the whole answer at another endpoint. Only
    the thread that drives the answer uses it.
    """

    of_jobs: int = 0
    is_of_answer: bool = False


class KudosBudget(Protocol):
    """The kudos that a caller's key may spend today."""

    def left(self) -> float:
        """What is left of it, without what `hold` reserved."""

    def hold(self, kudos: float) -> None:
        """Reserve kudos until the caller's request ends, and its usage is counted."""


REFUSED_PAUSE = 60
"""The cooldown (s) after a refusal of the upstream's own key or account. Nobody mends those sooner,
and each try costs a client a detour."""
ANSWER_MARGIN = 2.0
"""How long before the caller's deadline an upstream gives what it has (s)."""
UNREACHABLE = "horde unreachable"
"""The state of a Waiting while the horde does not answer."""
HELD_BACK = "held back"
"""The state of a Waiting in our own submit queue, or for a client that has gone."""
IN_LINE = "in line"
"""The state of a Waiting in the line before an endpoint."""
LONGEST_SLEEP = 0.9
"""Seconds between two Waitings where nothing else is said: keep-alives go out at Waitings."""


class Sleeper:
    """The sleep of the thread that drives one answer, which other threads may end early.

    `longest` bounds one sleep (s). `time_left` are the seconds until somebody should look at the
    clock again. `sleep` replaces the real sleep, for tests with a clock of their own.
    `has_client` is False while nobody reads the answer.

    One thread at a time sleeps here; any number may call wake() and stop().
    """

    def __init__(
        self,
        longest: float = LONGEST_SLEEP,
        time_left: Callable[[], float] = lambda: math.inf,
        sleep: Callable[[float], object] | None = None,
    ) -> None:
        self.longest, self._time_left, self._sleep = longest, time_left, sleep
        self.has_client = True
        self._error: ProxyError | None = None
        # A binary semaphore: held while there is no news, released by wake(). It guards nothing.
        # A bare lock costs a fraction of what an Event costs, with a thousand sleepers.
        self._news = threading.Lock()
        self._news.acquire()

    def wait(self, seconds: float) -> bool:
        """Whether wake() ended the sleep of so many seconds, or of fewer: see `longest`.

        A wake() that came before is not lost: the next wait ends at once. Yield a Waiting after
        each wait, so that the front can look at its client and the clock. Raises what stop() was
        given.
        """
        time_left = self._time_left()
        longest = min(self.longest, time_left) if time_left > 0 else LONGEST_SLEEP
        seconds = max(min(seconds, longest), 0.0)
        if self._sleep is None:
            is_woken = self._news.acquire(timeout=seconds)
        elif not (is_woken := self._news.acquire(blocking=False)):
            self._sleep(seconds)
        if self._error is not None:
            raise self._error
        return is_woken

    def wake(self) -> None:
        """End the present sleep, or the next one."""
        # The lock is free where an earlier wake() was not noticed yet.
        with contextlib.suppress(RuntimeError):
            self._news.release()

    def stop(self, error: ProxyError) -> None:
        """End the present sleep and all later ones with this error."""
        self._error = error
        self.wake()


@dataclass(frozen=True)
class Caller:
    """Who asks for an answer, and how long the caller waits for it.

    `client` tells callers apart. `api_key` is the caller's own key for the upstream; None: the
    upstream uses the configured one. `deadline` is on the monotonic clock. `sleeper` is for the
    upstream's waits; None: it sleeps in its own way. `may_fail_over` returns whether another
    endpoint may answer instead, as the router sees it now. `journal` keeps what is submitted, for
    an answer that goes on after a restart. `is_job`: nobody waits for the answer, which lets
    others go first. `weight` is the client's where clients take turns: twice as much is twice as
    many turns. One Caller is good for one chat.
    A part of an answer, one of `parts` that run at once, comes after others for `spent_kudos`.
    `budget` is None for a key without a limit of kudos. `is_second`: the request is made beside
    another one that is late; `second` says so to whatever might make one more. `endpoint` is the
    upstream's name. `inspection` keeps what is sent and received, for a client that looks into it.
    """

    client: str = ""
    api_key: str | None = field(default=None, repr=False)
    deadline: float | None = None
    sleeper: Sleeper | None = field(default=None, compare=False)
    submits: SubmitBudget = field(default_factory=SubmitBudget, compare=False)
    may_fail_over: Callable[[], bool] = field(default=lambda: False, compare=False)
    journal: RequestJournal | None = field(default=None, compare=False)
    is_job: bool = False
    spent_kudos: float = 0.0
    parts: int = 1
    weight: float = 1.0
    budget: KudosBudget | None = field(default=None, compare=False)
    is_second: bool = False
    second: SecondRequests = field(default_factory=SecondRequests, compare=False)
    endpoint: str = ""
    inspection: Inspection | None = field(default=None, compare=False)

    def check_deadline(self, now: float) -> None:
        """Raises TimedOut once the deadline has passed."""
        if self.deadline is not None and now > self.deadline:
            raise DeadlinePassed()

    def kudos_left(self, most: float | None) -> float | None:
        """What this part of an answer may cost, of `most` for the whole answer; None: anything."""
        return None if most is None else max(most - self.spent_kudos, 0.0) / self.parts

    @property
    def is_gone(self) -> bool:
        """Whether the client has left, and may come back for the answer."""
        return self.sleeper is not None and not self.sleeper.has_client

    def wait_for_client(self) -> Iterator[Waiting]:
        """Waitings while the client is gone: nothing new is begun for nobody."""
        while self.sleeper is not None and not self.sleeper.has_client:
            yield Waiting(HELD_BACK)
            self.sleeper.wait(LONGEST_SLEEP)

    def waits_until(self, moment: float) -> bool:
        """Whether to wait until then for an upstream that cannot be reached.

        A caller without a deadline does not wait, nor one whom another endpoint may answer.
        """
        if self.deadline is None or self.may_fail_over():
            return False
        return moment < self.deadline - ANSWER_MARGIN


class Spent(NamedTuple):
    """The cost of an answer so far, in tokens and in the horde's kudos."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    kudos: float = 0.0


class LateKudos(Protocol):
    """The kudos of an answer, which may still grow for some seconds after its end."""

    @property
    def kudos(self) -> float:
        """What is known by now."""

    @property
    def expected(self) -> float:
        """What it will probably be, with what runs now."""

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call `listener` after each later change, from any thread."""


@dataclass(frozen=True)
class Accepted:
    """The upstream has the request; `headers` are for the client's response.

    `model` is the one that answers, by the name that clients see; the router fills it in. `spent`
    returns the cost so far, for answers that end before their usage came. `is_paid`: the
    cost was already counted for a client that disconnected and came back. `is_early`: the upstream
    has not answered yet; another Accepted follows when it has. `late_kudos` is given by an upstream
    that charges after the answer.
    """

    headers: Mapping[str, str] = field(default_factory=dict)
    upstream: str | None = None
    spent: Callable[[], Spent] = field(default=Spent, compare=False)
    is_paid: bool = False
    model: str | None = None
    is_early: bool = False
    late_kudos: LateKudos | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Waiting:
    """Nothing new yet: what is known meanwhile. One follows each sleep of an upstream.

    `state` is HELD_BACK, IN_LINE, "waking" (the machine of an endpoint
    boots), "queued", "generating" or UNREACHABLE.
    `seconds` is the expected time until there is something new.
    """

    state: str
    queue_position: int | None = None
    seconds: int | None = None


StreamItem = Accepted | Waiting | Chunk
ImageItem = Accepted | Waiting | Picture


class Proxy(Protocol):
    """Passes a call on unchanged; `model` is the upstream's own name of it, if one is named.

    Returns the response once its first bytes are there. Raises a ProxyError when there is none.
    Another thread may end the call through `guard`, which is passed for a call made beside.
    """

    def __call__(
        self, call: ProxyRequest, model: str | None, guard: CallGuard | None = None, /
    ) -> ProxyResponse: ...


class ImageSource(Protocol):
    """What makes pictures, as a part of an upstream."""

    def models(self) -> Sequence[dict[str, Any]]:
        """Model objects of all image models that are available now, with `type` "image"."""

    def refresh(self) -> None:
        """Load the list of models anew; the next call of models() waits for it a moment."""

    def error(self) -> ProxyError | None:
        """Why the last load of the models failed; None when it did not."""

    def stream(
        self, request: ImageRequest, model: str, caller: Caller
    ) -> Generator[ImageItem, None, None]:
        """Accepted, Waitings and pictures. Closing it cancels what still runs."""


@runtime_checkable
class MakesImages(Protocol):
    """An upstream that makes pictures as well."""

    @property
    def images(self) -> ImageSource: ...


@runtime_checkable
class TellsCapacity(Protocol):
    """An upstream that finds out what its server has room for. Neither method waits."""

    def slots(self, model: str) -> int | None:
        """How many requests for a model run at a time at the server; None where it is not known."""

    def is_loaded(self, model: str) -> bool | None:
        """Whether the server has a model in memory; None where it is not known."""


@runtime_checkable
class Penalizes(Protocol):
    """An upstream that keeps this proxy out after what it took for abuse."""

    def penalties(self) -> Sequence[Mapping[str, Any]]:
        """Those that have not ended, the longest first, as JSON.

        {"code", "until" (Unix s), "seconds_left", "kinds", "message"}; without kinds, it is for
        all requests.
        """


class Upstream(Protocol):
    """A configured service that answers chats. `kind` is its name in horde_proxy.upstreams.kinds.

    `cooldown_errors` are those that put
    the whole upstream into cooldown; others concern one request only.
    """

    name: str
    kind: str
    url: str
    cooldown_errors: tuple[type[ProxyError], ...]

    @property
    def offers_any(self) -> bool:
        """Whether it lists no models, so that any may be tried."""

    @property
    def proxy(self) -> Proxy | None:
        """The method that proxies a call; None for a kind that cannot."""

    def models(self) -> Sequence[dict[str, Any]]:
        """OpenAI's model objects of all models that are available now."""

    def refresh(self) -> None:
        """Load the list of models anew; the next call of models() waits for it a moment."""

    def error(self) -> ProxyError | None:
        """Why the last load of the models failed; None when it did not."""

    def shared(self, models: Sequence[str]) -> tuple[str, ...]:
        """Those of the models that may share one request with the first, the first included."""

    def stream(
        self, request: GenerationRequest, route: Route, caller: Caller
    ) -> Generator[StreamItem, None, None]:
        """The answer; see the module's docstring."""


@dataclass(frozen=True)
class Route:
    """An upstream and its own names of the models, any of which may answer; the first is best."""

    upstream: Upstream
    models: tuple[str, ...]

    @property
    def model(self) -> str:
        return self.models[0]
