"""One horde, as a bridge uses it: pops, submits, and how long to leave it alone after each.

It knows nothing of backends. One thread at a time pops; any thread may submit.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import requests

from horde_proxy.aihorde.rest import (
    EXTENSIONS_HEADER,
    api_url,
    client_agent,
    extensions,
    json_object,
    retry_after,
)
from horde_proxy.numbers import finite
from horde_proxy.printable import shortened, without_login
from horde_proxy.response_body import with_body
from horde_proxy.upstreams.sessions import with_proxy
from horde_proxy.worker.growing_job import Received

TEXT_PATH = "generate/text"
"""Of the API for texts; see horde-api.md, 4."""
_TIMEOUT = (5.0, 30.0)
"""Seconds to connect and to wait for an answer."""
_PROGRESS_TIMEOUT = (2.0, 3.0)
"""Seconds, likewise. The job's thread waits for the answer, and its result must not come much later
because the horde hangs. A piece that is lost is sent again with the next one."""
_SUBMIT_TRIES = 5
# Seconds. AI-Horde-Worker pauses 1 s without a job, 2 s after an answer other than 200 and 10 s
# without a connection (its worker/jobs/poppers.py). Here 10 s follow a refusal that lasts. Each
# pause is twice as long as the one before, so that a horde that is down is left alone.
_AFTER_FAILURE = 2.0
_AFTER_REFUSAL = 10.0
_LONGEST_PAUSE = 60.0
_PAUSE_BY_WAIT = 4.0
"""A horde that hangs is left alone for so many times as long as it was waited for: the worker's
other hordes then have its threads for most of the time."""
_LONG_IDLE = 30.0
"""Seconds without a job after which a worker pops less often: a conversation's next message mostly
comes sooner."""
_RARE_POPS = 0.5
"""The least pause from then on (s): the demo's workers, which pause 0.1 s, take a fifth of the
processor time then, and the first job waits half a second at most."""
_BETWEEN_WAITS = 0.02
"""The pause between two pops that wait (s): a horde that is full answers at once all the same."""
_LONGEST_REASON = 200
"""Characters. AI-Horde's field for it has 255."""
_LONGEST_MESSAGE = 500
"""Characters of a message of the horde that are logged."""
_MOST_MESSAGES = 50
"""Messages of one pop, and ids that are remembered."""

# Refusals that end by themselves: the owner or the horde ends a maintenance, and an address's
# time-out expires (AI-Horde's countermeasures.py).
_PASSING_REFUSALS = ("WorkerMaintenance", "MaintenanceMode", "TimeoutIP")

log = logging.getLogger(__name__)


class WorkerRejected(Exception):
    """The horde rejects this worker for good: its key, name or models are wrong."""


@dataclass(frozen=True)
class WorkerIdentity:
    """How a worker identifies itself to the horde at `url`. `idle`: seconds between empty pops.

    After half a minute without a job they are at least half a second apart. The jobs of the owner
    and of `priority_usernames` ("alias#id") come first. `nsfw`: whether jobs may be so. A horde
    that can let a pop wait for a job does so for `wait` seconds, after which a worker that is
    stopped can end.
    """

    url: str
    name: str
    api_key: str = field(repr=False)
    idle: float = 1.0
    contact: str = "https://horde-proxy.invalid"
    priority_usernames: Sequence[str] = ()
    nsfw: bool = True
    proxy_url: str | None = None
    wait: float = 2.0

    @property
    def label(self) -> str:
        """The horde in logs and on the status page: its URL without a login."""
        return without_login(self.url)


Job = Mapping[str, Any]
"""A job as the horde gave it; its `id` is a text."""


def only_job(answer: Mapping[str, Any]) -> Sequence[Job]:
    """The job in an answer to a pop. Without a job it has the same shape, but its id is null."""
    return [answer] if answer.get("id") else ()


@dataclass(frozen=True)
class Offer:
    """What a worker can do: the fields of a pop's body that are particular to its kind.

    `extensions` are words of the extension of the private horde; a horde is told those that it
    announces itself. `jobs_in` finds the jobs in the answer.
    """

    fields: Mapping[str, Any]
    extensions: Sequence[str] = ()
    jobs_in: Callable[[Mapping[str, Any]], Sequence[Job]] = only_job


@dataclass(frozen=True)
class Outcome:
    """What became of a job: "ok" with a result, or "faulted" with a reason, which gives it back.

    `text` is what was generated, as a text; `tokens` are those of the text. `seed` and `metadata`
    are what an image was made with. `result` is that of alchemy.
    """

    state: str
    text: str = ""
    reason: str = ""
    tokens: int = 0
    seed: int = 0
    metadata: Sequence[Mapping[str, str]] = ()
    result: Mapping[str, Any] = field(default_factory=dict)

    def body(self, job_id: str) -> dict[str, Any]:
        """The body of POST generate/submit and generate/text/submit."""
        # The horde refuses a text with a NUL in it, and the job would run into its time-out.
        text = self.text.replace("\0", "")
        body: dict[str, Any] = {
            "id": job_id,
            "generation": text,
            "seed": self.seed,
            "state": self.state,
        }
        metadata = [*self.metadata]
        if self.reason:
            metadata.append(information(self.reason))
        return {**body, "gen_metadata": metadata} if metadata else body


def information(sentence: str) -> Mapping[str, str]:
    """The entry of `gen_metadata` with a sentence for the requester."""
    # AI-Horde takes fixed words only, and a free text in `ref` (horde-api-2, section 2).
    return {"type": "information", "value": "see_ref", "ref": sentence[:_LONGEST_REASON]}


class HordeConnection:
    """Pops and submits at one horde. After a pop, `pause` is the seconds until the next one.

    `path` is that of the API for one kind of jobs.
    """

    def __init__(
        self, identity: WorkerIdentity, clock: Callable[[], float], path: str = TEXT_PATH
    ) -> None:
        self.identity, self._path = identity, path
        self.rejected: WorkerRejected | None = None
        self.pause = 0.0
        self._clock = clock
        self._base, self._agent = api_url(identity.url), client_agent(identity.contact)
        self._next_pop = -math.inf
        self._is_failing, self._idle_seconds, self._failures = False, 0.0, 0
        # The ids of messages that were logged, the oldest first.
        self._messages: dict[str, None] = {}
        # What the horde can do beyond AI-Horde's API, by its last answer to a pop.
        self._extensions: frozenset[str] = frozenset()

    @property
    def streams(self) -> bool:
        """Whether the horde takes texts as they grow."""
        return "stream" in self._extensions

    def with_proxy(self, session: requests.Session) -> requests.Session:
        """The session, whose calls go through this horde's HTTP proxy."""
        return with_proxy(session, self.identity.proxy_url)

    def due_in(self) -> float:
        """Seconds until the next pop is due; infinity once the horde has rejected the worker."""
        return math.inf if self.rejected else max(self._next_pop - self._clock(), 0.0)

    def is_failing(self) -> bool:
        """Whether the last pop failed or was refused."""
        return self._is_failing or self.rejected is not None

    def hurry(self, *, even_if_failing: bool = False) -> None:
        """Make the next pop due now, unless the horde is left alone after a failure."""
        if even_if_failing or not self._is_failing:
            self._next_pop = -math.inf

    def pop(self, session: requests.Session, offer: Offer) -> Sequence[Job]:
        """The jobs, if there are any. A horde that refuses the worker for good sets `rejected`."""
        begin = self._clock()
        jobs: Sequence[Job] = ()
        try:
            response = self._post(session, "pop", self._pop_body(offer))
        except requests.RequestException as exc:
            self.pause = self._failed(_AFTER_FAILURE, f"cannot be reached: {type(exc).__name__}")
        else:
            if response.status_code == 200:
                jobs = self._jobs_in(response, offer)
            else:
                self.pause = self._refused(response)
        if self._is_failing:
            waited = self._clock() - begin
            # Where time does not pass, as in tests, this changes nothing.
            self.pause = max(self.pause, round(waited * _PAUSE_BY_WAIT))
        self._next_pop = self._clock() + self.pause
        return jobs

    def submit(
        self,
        session: requests.Session,
        body: Mapping[str, Any],
        pause: Callable[[float], Any],
        is_last_try: Callable[[], bool],
    ) -> float | None:
        """The kudos earned; None if the horde did not take the result.

        It is safe to repeat after a failure: the horde refuses a second result.
        """
        for _ in range(_SUBMIT_TRIES):
            try:
                response = self._post(session, "submit", body)
            except requests.RequestException as exc:
                log.warning("job %s is not submitted yet: %s", body["id"], type(exc).__name__)
                seconds = _AFTER_FAILURE
            else:
                if not _is_busy(response):
                    return _reward_in(response, body["id"])
                seconds = _requested_pause(response) or _AFTER_FAILURE
            if is_last_try():
                break
            pause(seconds)
        log.error("job %s could not be submitted", body["id"])
        return None

    def progress(self, session: requests.Session, job_id: str, offset: int, text: str) -> Received:
        """Send a piece of a job's text. What the horde has of it; a failure loses nothing."""
        body = {"id": job_id, "offset": offset, "text": text}
        try:
            response = self._post(session, "progress", body, _PROGRESS_TIMEOUT)
        except requests.RequestException:
            return Received(cancelled=False, offset=offset, failed=True)
        answer = json_object(response.content)
        if response.status_code != 200:
            # A job that the horde does not know any more is nobody's.
            is_gone = answer.get("rc") in ("InvalidJobID", "WrongCredentials")
            # A text that is too long, for example: its rest is submitted with the result only.
            is_refused = response.status_code == 400 and not is_gone
            return Received(is_gone, offset, failed=True, refused=is_refused)
        known = answer.get("offset")
        known = known if isinstance(known, int) and known >= 0 else offset
        return Received(answer.get("cancelled") is True, known)

    def _wait(self) -> float:
        """Seconds that the horde may wait for a job; 0 where it cannot."""
        return self.identity.wait if "wait" in self._extensions else 0.0

    def _jobs_in(self, response: requests.Response, offer: Offer) -> Sequence[Job]:
        """The jobs of a pop that was answered; sets `pause`."""
        if self._failures:
            log.warning("the horde %s gives jobs again", self.identity.label)
        self._is_failing, self._failures = False, 0
        self._extensions = extensions(response.headers.get(EXTENSIONS_HEADER, ""))
        answer = json_object(response.content)
        self._log_messages(answer.get("messages"))
        if jobs := offer.jobs_in(answer):
            self._idle_seconds = self.pause = 0.0
            return jobs
        if self._wait():
            self.pause = min(self.identity.idle, _BETWEEN_WAITS)
            return ()
        is_long = self._idle_seconds >= _LONG_IDLE
        self.pause = max(self.identity.idle, _RARE_POPS) if is_long else self.identity.idle
        self._idle_seconds += self.pause
        return ()

    def _log_messages(self, messages: Any) -> None:
        """Log what the horde's moderators wrote to the worker, each message once.

        It comes with every pop until it expires: {"id": ..., "message": "please update"} (capture
        image_pop_with_message).
        """
        for message in messages[:_MOST_MESSAGES] if isinstance(messages, list) else ():
            text = message.get("message") if isinstance(message, Mapping) else None
            key = str(message.get("id") or text)[:_LONGEST_REASON] if text else ""
            if key and key not in self._messages:
                self._messages[key] = None
                log.warning("the horde %s writes: %s", self.identity.label, _short(text))
        while len(self._messages) > _MOST_MESSAGES:
            self._messages.pop(next(iter(self._messages)))

    def _refused(self, response: requests.Response) -> float:
        """Seconds until the next pop after a refusal; sets `rejected` if it will never end."""
        if _is_busy(response):
            if pause := _requested_pause(response):
                # A rate limit is usual: it is obeyed without a word.
                self._is_failing = True
                return pause
            return self._failed(
                _AFTER_FAILURE, f"is busy or broken (status {response.status_code})"
            )
        body = json_object(response.content)
        reason = body.get("errors") or body.get("rc")
        # Without any code, the answer is the page of a proxy or load balancer between us.
        if not reason or reason in _PASSING_REFUSALS:
            words = _short(body.get("message")) if reason else ""
            return self._failed(
                _AFTER_REFUSAL,
                f"gives no jobs right now ({reason or response.status_code}): {words}".rstrip(": "),
            )
        message = _short(body.get("errors") or body.get("message") or response.status_code)
        self.rejected = WorkerRejected(
            "the horde does not know this worker's API key"
            if reason == "InvalidAPIKey"
            else f"the horde refuses this worker: {message}"
        )
        log.error("%s: %s", self.identity.label, self.rejected)
        return 0.0

    def _failed(self, pause: float, what: str) -> float:
        """Seconds to leave the horde alone: `pause` at first, then twice as long each time."""
        if not self._failures:
            log.warning("the horde %s %s", self.identity.label, what)
        self._is_failing = True
        self._failures += 1
        # The exponent is bounded, or a horde that is down for a day overflows the float.
        return float(min(pause * 2 ** min(self._failures - 1, 10), _LONGEST_PAUSE))

    def _post(
        self,
        session: requests.Session,
        path: str,
        body: Mapping[str, Any],
        timeout: tuple[float, float] = _TIMEOUT,
    ) -> requests.Response:
        response = session.post(
            f"{self._base}/{self._path}/{path}",
            json=body,
            timeout=timeout,
            headers={"apikey": self.identity.api_key, "Client-Agent": self._agent},
            stream=True,
        )
        return with_body(response)

    def _pop_body(self, offer: Offer) -> dict[str, Any]:
        wait = {"wait": self._wait()} if self._wait() else {}
        known = [name for name in offer.extensions if name in self._extensions]
        return {
            **wait,
            **({"extensions": known} if known else {}),
            "name": self.identity.name,
            "nsfw": self.identity.nsfw,
            "bridge_agent": self._agent,
            "priority_usernames": list(self.identity.priority_usernames),
            **offer.fields,
        }


def _reward_in(response: requests.Response, job_id: Any) -> float | None:
    answer = json_object(response.content)
    if response.status_code == 200:
        return finite(answer.get("reward")) or 0.0
    log.warning("the horde refuses the result of job %s: %s", job_id, _short(answer.get("rc")))
    return None


def _short(text: Any) -> str:
    return shortened(str(text or ""), _LONGEST_MESSAGE)


def _is_busy(response: requests.Response) -> bool:
    return response.status_code == 429 or response.status_code >= 500


def _requested_pause(response: requests.Response) -> float | None:
    """Seconds to wait by a busy horde's Retry-After, at most a minute; None without one."""
    seconds = retry_after(response.headers.get("Retry-After", ""), time.time())
    return min(float(seconds), _LONGEST_PAUSE) if seconds else None
