"""The loop of a worker: pop a job, let the backend complete it, submit the text.

Each thread runs the loop with its own session, one job at a time. The threads share the backend,
which must be thread-safe, and `stop`. If the horde rejects a thread for good, the thread keeps the
reason and sets `stop`, which ends the others; `run` raises the reason when all have ended.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import requests

from horde_proxy.aihorde.rest import api_url, client_agent, json_object, retry_after
from horde_proxy.response_body import with_body
from horde_proxy.upstreams.sessions import new_session
from horde_proxy.worker.backends import Backend, BackendError
from horde_proxy.worker.placeholders import fill_payload

_TIMEOUT = (5.0, 30.0)
"""Seconds to connect and to wait for an answer."""
_SUBMIT_TRIES = 5
# Seconds. AI-Horde-Worker pauses 1 s without a job, 2 s after an answer other than 200 and 10 s
# without a connection (its worker/jobs/poppers.py). Here 10 s follow a refusal that lasts.
_AFTER_FAILURE = 2.0
_AFTER_REFUSAL = 10.0
_LONGEST_PAUSE = 60.0
_LONG_IDLE = 30.0
"""Seconds without a job after which a worker pops less often: a conversation's next message mostly
comes sooner."""
_RARE_POPS = 0.5
"""The least pause from then on (s): the demo's workers, which pause 0.1 s, take a fifth of the
processor time then, and the first job waits half a second at most."""

# Refusals that end by themselves: the owner or the horde ends a maintenance, and an address's
# time-out expires (AI-Horde's countermeasures.py).
_PASSING_REFUSALS = ("WorkerMaintenance", "MaintenanceMode", "TimeoutIP")

log = logging.getLogger(__name__)


class WorkerRejected(Exception):
    """The horde rejects this worker for good: its key, name or models are wrong."""


@dataclass(frozen=True)
class WorkerIdentity:
    """How a worker identifies itself to the horde at `url`. `idle`: seconds between empty pops.

    After half a minute without a job they are at least half a second apart.
    """

    url: str
    name: str
    api_key: str = field(repr=False)
    threads: int = 1
    idle: float = 1.0
    contact: str = "https://horde-proxy.invalid"


class Bridge:
    """Serves one backend to one horde until `stop` is set."""

    def __init__(
        self,
        identity: WorkerIdentity,
        backend: Backend,
        *,
        stop: threading.Event,
        new_session: Callable[[], requests.Session] = new_session,
        pause: Callable[[float], Any] | None = None,
    ) -> None:
        self._identity, self._backend, self._stop = identity, backend, stop
        self._base = api_url(identity.url)
        self._agent = client_agent(identity.contact)
        self._new_session = new_session
        self._pause = pause or stop.wait
        self._rejected: WorkerRejected | None = None
        # Held by the one thread that pops, until it has a job; the other idle threads wait for it.
        # Fifty that pop would keep a processor busy. It guards nothing, so I/O and pauses happen
        # under it.
        self._popping = threading.Lock()
        self._idle_seconds = 0.0

    def run(self) -> None:
        """Work in the identity's number of threads until `stop` is set. Raises WorkerRejected."""
        threads = [
            threading.Thread(target=self._work, name=f"job-{number}")
            for number in range(self._identity.threads)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self._rejected:
            raise self._rejected

    def _work(self) -> None:
        session = self._new_session()
        try:
            while not self._stop.is_set():
                with self._popping:
                    job, pause = self._pop(session)
                    if job is None:
                        self._pause(pause)
                if job is not None:
                    self._do(session, job)
        except WorkerRejected as exc:
            self._rejected = exc
        finally:
            self._stop.set()

    def step(self, session: requests.Session) -> float:
        """Do at most one job. The seconds to pause before the next pop; raises WorkerRejected."""
        job, pause = self._pop(session)
        if job is not None:
            self._do(session, job)
        return pause

    def _pop(self, session: requests.Session) -> tuple[Mapping[str, Any] | None, float]:
        """(a job, 0), or (None, seconds to pause). Raises WorkerRejected."""
        try:
            response = self._post(session, "pop", self._pop_body())
        except requests.RequestException as exc:
            log.warning("the horde cannot be reached: %s", type(exc).__name__)
            return None, _AFTER_FAILURE
        if response.status_code != 200:
            return None, self._pause_after_refusal(response)
        job = json_object(response.content)
        # Without a job, the answer has the same shape, but its id is null.
        if not job.get("id"):
            return None, self._idle_pause()
        self._idle_seconds = 0.0
        return job, 0.0

    def _idle_pause(self) -> float:
        """Seconds to pause where there was no job: longer when there has been none for a while."""
        is_long = self._idle_seconds >= _LONG_IDLE
        pause = max(self._identity.idle, _RARE_POPS) if is_long else self._identity.idle
        self._idle_seconds += pause
        return pause

    def _do(self, session: requests.Session, job: Mapping[str, Any]) -> None:
        state, text = self._generation(job)
        # The horde refuses a text with a NUL in it, and the job would run into its time-out.
        text = text.replace("\0", "")
        self._submit(session, {"id": job["id"], "generation": text, "seed": 0, "state": state})

    def _generation(self, job: Mapping[str, Any]) -> tuple[str, str]:
        """(state, text) of a job; "faulted" gives it back to the queue at once."""
        payload, tags = job.get("payload") or {}, self._backend.tags
        try:
            if tags:
                payload = fill_payload(payload, tags)
            text = self._backend.generate(payload, self._stop.is_set)
        except BackendError as exc:
            log.warning("job %s failed: %s", job["id"], exc)
            return "faulted", ""
        # A malformed payload must not end the worker.
        except Exception:
            log.exception("job %s failed", job["id"])
            return "faulted", ""
        # A backend that is being stopped returns an incomplete text.
        return ("faulted", "") if self._stop.is_set() else ("ok", text)

    def _submit(self, session: requests.Session, body: Mapping[str, Any]) -> None:
        """Submit a text. It is safe to repeat after a failure: the horde refuses a second text."""
        for _ in range(_SUBMIT_TRIES):
            try:
                response = self._post(session, "submit", body)
            except requests.RequestException as exc:
                log.warning("job %s is not submitted yet: %s", body["id"], type(exc).__name__)
                self._pause(_AFTER_FAILURE)
                continue
            if _is_busy(response):
                self._pause(_requested_pause(response))
                continue
            if response.status_code != 200:
                code = json_object(response.content).get("rc")
                log.warning("the horde refuses the text of job %s: %s", body["id"], code)
            return
        log.error("job %s could not be submitted", body["id"])

    def _pause_after_refusal(self, response: requests.Response) -> float:
        """Seconds until the next pop. Raises WorkerRejected if the refusal will never end."""
        if _is_busy(response):
            return _requested_pause(response)
        body = json_object(response.content)
        reason = body.get("errors") or body.get("rc")
        # Without any code, the answer is the page of a proxy or load balancer between us.
        if not reason or reason in _PASSING_REFUSALS:
            log.warning("the horde gives no jobs right now (%s)", reason or response.status_code)
            return _AFTER_REFUSAL
        if reason == "InvalidAPIKey":
            raise WorkerRejected("the horde does not know this worker's API key")
        message = body.get("errors") or body.get("message") or response.status_code
        raise WorkerRejected(f"the horde refuses this worker: {message}")

    def _post(
        self, session: requests.Session, path: str, body: Mapping[str, Any]
    ) -> requests.Response:
        response = session.post(
            f"{self._base}/generate/text/{path}",
            json=body,
            timeout=_TIMEOUT,
            headers={"apikey": self._identity.api_key, "Client-Agent": self._agent},
            stream=True,
        )
        return with_body(response)

    def _pop_body(self) -> dict[str, Any]:
        identity, backend = self._identity, self._backend
        return {
            "name": identity.name,
            "models": [backend.name],
            "max_length": backend.max_length,
            "max_context_length": backend.max_context_length,
            "threads": identity.threads,
            "nsfw": True,
            "bridge_agent": self._agent,
            "softprompts": [],
            "priority_usernames": [],
            "amount": 1,
        }


def _is_busy(response: requests.Response) -> bool:
    return response.status_code == 429 or response.status_code >= 500


def _requested_pause(response: requests.Response) -> float:
    """Seconds to wait by a busy horde's Retry-After, at most a minute."""
    seconds = retry_after(response.headers.get("Retry-After", ""), time.time())
    return min(float(seconds or _AFTER_FAILURE), _LONGEST_PAUSE)
