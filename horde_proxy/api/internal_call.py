"""Calls of this proxy's own API that no client waits for: of background answers and batches.

    a runner's thread --call(app, job, ...)--> the app, as for any request --> InternalAnswer
                                                 |
                             auth.authenticate() and the rest find who pays in the environ

So limits, log, usage, failover and errors are those of any request. The identity is an object in
the WSGI environ; a client can only set headers, so no client can claim one. Which calls there are,
and when they are made, is not known here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, cast
from urllib.parse import quote

from flask import has_request_context
from werkzeug.datastructures import Headers

from horde_proxy.api.front import Recorder
from horde_proxy.api.this_request import current_request
from horde_proxy.store.taken_job import JobControl
from horde_proxy.upstreams.base import StreamItem
from horde_proxy.upstreams.in_process import run_app, wsgi_environ
from horde_proxy.upstreams.request_journal import RequestJournal

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

_IN_ENVIRON = "horde_proxy.job"
"""Without the prefix HTTP_, which the names of all headers have there (PEP 3333)."""
BUSY_STATUSES = frozenset({429, 503, 529})
"""The statuses of an answer that is worth another try later: a limit, or no place to wait. A 529 is
the 503 of Anthropic's API."""


class JobAnswer(Recorder, Protocol):
    """Keeps the answer to a job, whose client knows `id` already; `created` is Unix time (s)."""

    id: str
    created: int

    def resumed(self, question: Any) -> Any:
        """The front's question, to be answered from where the answer stands.

        It is called once, before `watch`.
        """


@dataclass(frozen=True)
class JobIdentity:
    """For whom a call is made. `id` is the job's, for logs.

    `client` is the name that tells clients apart (auth.client_name), `address` the client's, for
    the log. `key_digest` is that of the client's key where keys are required: the call fails once
    that key is revoked. `horde_key` is the client's own key for the horde, where such a key pays.
    `places` are those that the request which began the job was bound to; None: it may go anywhere.
    `seconds` is how long the answer may take; None: as long as any other. `note` is called with
    each item of the answer, in the thread of the call; what it raises ends the answer. `is_new`
    is False where the request was counted against its key's limits of a minute already. `journal`
    is of what the answer submits, also before a restart; `control` ends it. `answer` keeps what is
    generated, in place of the front's recorder.
    """

    id: str
    client: str
    address: str = ""
    key_digest: str | None = field(default=None, repr=False)
    horde_key: str | None = field(default=None, repr=False)
    places: Sequence[str] | None = None
    seconds: float | None = None
    note: Callable[[StreamItem], None] | None = field(default=None, compare=False, repr=False)
    is_new: bool = True
    journal: RequestJournal | None = field(default=None, compare=False, repr=False)
    answer: JobAnswer | None = field(default=None, compare=False, repr=False)
    control: JobControl = field(default_factory=JobControl, compare=False, repr=False)


@dataclass(frozen=True)
class InternalAnswer:
    """The whole answer to a call."""

    status: int
    headers: Headers
    body: bytes

    @property
    def retry_after(self) -> float | None:
        """Seconds until the call may be tried again, where it was refused for now only."""
        if self.status not in BUSY_STATUSES:
            return None
        try:
            return max(float(self.headers.get("Retry-After", "5")), 1.0)
        except ValueError:
            return 5.0


def current_job() -> JobIdentity | None:
    """The job that the current request is made for; None for a client's request."""
    if not has_request_context():
        return None
    return cast("JobIdentity | None", current_request().environ.get(_IN_ENVIRON))


def call(
    app: WSGIApplication,
    job: JobIdentity,
    path: str,
    body: bytes,
    *,
    headers: Mapping[str, str] | None = None,
) -> InternalAnswer:
    """The answer of the app to a JSON body at a path, e.g. "/v1/chat/completions"."""
    with opened(app, job, path, body, headers=headers) as (status, answered, pieces):
        return InternalAnswer(status, answered, b"".join(pieces))


@contextmanager
def opened(
    app: WSGIApplication,
    job: JobIdentity,
    path: str,
    body: bytes,
    *,
    headers: Mapping[str, str] | None = None,
) -> Iterator[tuple[int, Headers, Iterator[bytes]]]:
    """A context with (status, headers, the pieces of the body); its end ends the answer."""
    environ = _environ(job, path, body)
    for name, value in (headers or {}).items():
        environ["HTTP_" + name.upper().replace("-", "_")] = value
    pieces, status, answered = run_app(app, environ)
    try:
        yield int(status.split()[0]), answered, iter(pieces)
    finally:
        close = getattr(pieces, "close", None)
        if close is not None:
            close()


def _environ(job: JobIdentity, path: str, body: bytes) -> dict[str, Any]:
    return {
        **wsgi_environ("POST", path.encode(), body),
        _IN_ENVIRON: job,
        "REQUEST_URI": quote(path),
        "REMOTE_ADDR": job.address,
        "CONTENT_TYPE": "application/json",
    }
