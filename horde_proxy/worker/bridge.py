"""The loop of a worker: pop a job, let the backend complete it, submit the text."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import requests

from horde_proxy.version import VERSION
from horde_proxy.worker.backend import Backend, BackendError
from horde_proxy.worker.placeholders import fill_payload

_TIMEOUT = (5.0, 30.0)
_SUBMIT_TRIES = 5
_AFTER_REFUSAL = 10.0
_AFTER_FAILURE = 2.0
_LONGEST_PAUSE = 60.0

log = logging.getLogger(__name__)


class Rejected(Exception):
    """The horde will not have this worker: key, name or models are wrong."""


@dataclass(frozen=True)
class Identity:
    """How a worker presents itself. `url` is the horde's; `idle` is seconds between empty pops."""

    url: str
    name: str
    api_key: str = field(repr=False)
    threads: int = 1
    idle: float = 1.0
    contact: str = "https://horde-proxy.invalid"


class Bridge:
    """Serves one backend to one horde until `stop` is set; each thread has one job at a time."""

    def __init__(
        self,
        identity: Identity,
        backend: Backend,
        *,
        stop: threading.Event,
        new_session: Callable[[], requests.Session] = requests.Session,
        pause: Callable[[float], Any] | None = None,
    ) -> None:
        self._identity, self._backend, self._stop = identity, backend, stop
        self._base = identity.url.rstrip("/").removesuffix("/v2").removesuffix("/api") + "/api/v2"
        self._new_session = new_session
        self._pause = pause or stop.wait
        self._rejected: Rejected | None = None

    def run(self) -> None:
        """Work in as many threads as the identity says. Raises Rejected."""
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
                self._pause(self.step(session))
        except Rejected as exc:
            self._rejected = exc
        finally:
            self._stop.set()

    def step(self, session: requests.Session) -> float:
        """Do at most one job; returns the seconds to pause before the next pop."""
        try:
            response = self._post(session, "pop", self._pop_body())
        except requests.RequestException as exc:
            log.warning("the horde cannot be reached: %s", type(exc).__name__)
            return _AFTER_FAILURE
        if response.status_code != 200:
            return self._refused(response)
        job = _json_object(response)
        if not job.get("id"):
            return self._identity.idle
        self._do(session, job)
        return 0.0

    def _do(self, session: requests.Session, job: Mapping[str, Any]) -> None:
        payload, tags = job.get("payload") or {}, self._backend.tags
        state = "ok"
        try:
            text = self._backend.generate(
                fill_payload(payload, tags) if tags else payload, self._stop.is_set
            )
        except BackendError as exc:
            log.warning("job %s failed: %s", job["id"], exc)
            state, text = "faulted", ""
        except Exception:
            log.exception("job %s failed", job["id"])
            state, text = "faulted", ""
        if self._stop.is_set():
            state, text = "faulted", ""
        # A horde refuses a text with a NUL in it, and the job would run into its time-out.
        text = text.replace("\0", "")
        self._submit(session, {"id": job["id"], "generation": text, "seed": 0, "state": state})

    def _submit(self, session: requests.Session, body: Mapping[str, Any]) -> None:
        """Hand a text in; repeated on failures, for the horde refuses a second one by itself."""
        for _ in range(_SUBMIT_TRIES):
            try:
                response = self._post(session, "submit", body)
            except requests.RequestException as exc:
                log.warning("job %s not handed in yet: %s", body["id"], type(exc).__name__)
                self._pause(_AFTER_FAILURE)
                continue
            if response.status_code == 429 or response.status_code >= 500:
                self._pause(_retry_after(response))
                continue
            if response.status_code != 200:
                log.warning("job %s not taken: %s", body["id"], _json_object(response).get("rc"))
            return
        log.error("job %s could not be handed in", body["id"])

    def _refused(self, response: requests.Response) -> float:
        """Seconds until a pop may be tried again. Raises Rejected where it never helps."""
        body = _json_object(response)
        if response.status_code == 429 or response.status_code >= 500:
            return _retry_after(response)
        permanent = body.get("errors") or body.get("rc")
        if not permanent or permanent in ("WorkerMaintenance", "MaintenanceMode", "TimeoutIP"):
            log.warning("the horde gives no jobs now (%s)", permanent or response.status_code)
            return _AFTER_REFUSAL
        if body.get("rc") == "InvalidAPIKey":
            raise Rejected("the horde does not know this worker's API key")
        reason = body.get("errors") or body.get("message") or response.status_code
        raise Rejected(f"the horde refuses this worker: {reason}")

    def _post(
        self, session: requests.Session, path: str, body: Mapping[str, Any]
    ) -> requests.Response:
        identity = self._identity
        agent = f"horde-proxy:{VERSION}:{identity.contact}"
        return session.post(
            f"{self._base}/generate/text/{path}",
            json=body,
            timeout=_TIMEOUT,
            headers={"apikey": identity.api_key, "Client-Agent": agent},
        )

    def _pop_body(self) -> dict[str, Any]:
        identity, backend = self._identity, self._backend
        return {
            "name": identity.name,
            "models": [backend.name],
            "max_length": backend.max_length,
            "max_context_length": backend.max_context_length,
            "threads": identity.threads,
            "nsfw": True,
            "bridge_agent": f"horde-proxy:{VERSION}:{identity.contact}",
            "softprompts": [],
            "priority_usernames": [],
            "amount": 1,
        }


def _retry_after(response: requests.Response) -> float:
    value = response.headers.get("Retry-After", "")
    seconds = float(value) if value.isdigit() else _AFTER_FAILURE
    return min(max(seconds, 1.0), _LONGEST_PAUSE)


def _json_object(response: requests.Response) -> dict[str, Any]:
    try:
        body = response.json()
    except requests.JSONDecodeError:
        return {}
    return body if isinstance(body, dict) else {}
