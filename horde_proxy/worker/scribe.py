"""A worker for texts: it completes prompts and chats, and formats what comes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from horde_proxy.aihorde import transcript
from horde_proxy.prompts.tokens import estimate
from horde_proxy.worker.backends import (
    Backend,
    ChatUnsupported,
    JobRefused,
    Payload,
    StreamsChat,
)
from horde_proxy.worker.backends.base import ContextExceeded, StreamsText
from horde_proxy.worker.backends.chats import formatted_transcript, is_chat, tokens_of
from horde_proxy.worker.formatting import formatted, is_formatted
from horde_proxy.worker.growing_job import GrowingJob, Received, in_thread
from horde_proxy.worker.horde import TEXT_PATH, Job, Offer, Outcome
from horde_proxy.worker.job_rules import JobRules
from horde_proxy.worker.kinds import JobSummary, PoppedJob
from horde_proxy.worker.placeholders import fill_payload

log = logging.getLogger(__name__)


def text_offer(
    models: Sequence[str],
    max_length: int,
    max_context_length: int,
    threads: int,
    refused_words: Sequence[str] = (),
    extensions: Sequence[str] = (),
) -> Offer:
    """What a scribe can do: models by name, the longest answer and context (tokens), threads.

    `refused_words` are words in prompts that it takes no jobs with.
    """
    # The private horde keeps such jobs for others; AI-Horde's text half ignores the field.
    blacklist = {"blacklist": list(refused_words)} if refused_words else {}
    fields = {
        **blacklist,
        "models": list(models),
        "max_length": max_length,
        "max_context_length": max_context_length,
        "threads": threads,
        "softprompts": [],
        "amount": 1,
    }
    return Offer(fields, extensions)


class Scribe:
    """Writes texts with the models of one server, one backend for each.

    `start` runs what writes a text that goes to the horde as it grows.
    """

    path = TEXT_PATH

    def __init__(
        self,
        backends: Sequence[Backend],
        *,
        rules: JobRules | None = None,
        clock: Callable[[], float] = time.monotonic,
        start: Callable[[Callable[[], None]], None] = in_thread,
    ) -> None:
        self._backends = {backend.name: backend for backend in backends}
        self.server: object = backends[0]
        self.name = ", ".join(self._backends)
        self._rules, self._clock, self._start = rules or JobRules(), clock, start

    def offer(self, threads: int) -> Offer:
        """All models, with the lengths that each of them can do."""
        backends = self._backends.values()
        return text_offer(
            models=list(self._backends),
            max_length=min(backend.max_length for backend in backends),
            max_context_length=min(backend.max_context_length for backend in backends),
            threads=threads,
            refused_words=self._rules.words,
            extensions=["chat"] if all(map(_can_chat, backends)) else [],
        )

    def summary(self, job: Job) -> JobSummary:
        """The model, the longest answer, and whether it is a chat."""
        payload = job.get("payload")
        payload = payload if isinstance(payload, Mapping) else {}
        length = payload.get("max_length")
        return JobSummary(
            "chat" if is_chat(payload) else "text",
            str(job.get("model") or self.name),
            length if isinstance(length, int) else 0,
        )

    def check(self, job: Job) -> None:
        """Raises JobRefused for a job that the filters or the models exclude."""
        self._rules.check(job)
        self._backend_of(job)

    def work(self, popped: PoppedJob, cancelled: Callable[[], bool]) -> Outcome:
        """The text of a job. Raises BackendError."""
        backend = self._backend_of(popped.job)
        payload: Payload = popped.job.get("payload") or {}
        try:
            if backend.tags:
                payload = fill_payload(payload, backend.tags)
            text = self._text(popped, backend, payload, cancelled)
        except ContextExceeded as exc:
            # No other worker could do it, so that the proxy is told at once.
            log.warning("job %s is refused: %s", popped.id, exc)
            return Outcome("ok", transcript.line(finish_reason="length"), exc.reason)
        except ChatUnsupported as exc:
            # The backend has said so in the log, and works all the same.
            return Outcome("faulted", reason=exc.reason)
        if is_chat(payload):
            return Outcome("ok", text, tokens=tokens_of(text))
        text = formatted(text, payload)
        return Outcome("ok", text, tokens=estimate(text))

    def body(self, job_id: str, outcome: Outcome) -> dict[str, Any]:
        """The body of POST generate/text/submit."""
        return outcome.body(job_id)

    def _text(
        self,
        popped: PoppedJob,
        backend: Backend,
        payload: Payload,
        cancelled: Callable[[], bool],
    ) -> str:
        """The text of a job, which a horde that streams gets as it grows. Raises BackendError."""
        if not popped.horde.streams:
            if is_chat(payload):
                return "".join(_chat_pieces(backend, payload, cancelled))
            return backend.generate(payload, cancelled)

        def send(offset: int, text: str) -> Received:
            return popped.horde.progress(popped.session, popped.id, offset, text)

        growing = GrowingJob(send, is_stopped=cancelled, clock=self._clock, start=self._start)
        return growing.run(lambda is_over: _pieces(backend, payload, is_over))

    def _backend_of(self, job: Mapping[str, Any]) -> Backend:
        """The backend of the job's model. Raises JobRefused."""
        backends = list(self._backends.values())
        # The only one, whatever the horde calls it.
        if len(backends) == 1:
            return backends[0]
        backend = self._backends.get(str(job.get("model")))
        if backend is None:
            raise JobRefused("its model is not offered here", "this worker has no such model")
        return backend


def _pieces(backend: Backend, payload: Payload, cancelled: Callable[[], bool]) -> Iterator[str]:
    """The text as it grows; all at once where it cannot be had so, or is to be changed."""
    if is_chat(payload):
        yield from _chat_pieces(backend, payload, cancelled)
    elif isinstance(backend, StreamsText) and not is_formatted(payload):
        yield from backend.stream(payload, cancelled)
    else:
        yield backend.generate(payload, cancelled)


def _chat_pieces(
    backend: Backend, payload: Payload, cancelled: Callable[[], bool]
) -> Iterator[str]:
    """The transcript of a chat, in whole lines. Raises BackendError."""
    if not isinstance(backend, StreamsChat) or not _can_chat(backend):
        raise ChatUnsupported("the backend does not chat", "this worker does not chat")
    lines = backend.chat(payload, cancelled)
    if is_formatted(payload):
        yield formatted_transcript("".join(lines), payload)
    else:
        yield from lines


def _can_chat(backend: Backend) -> bool:
    return isinstance(backend, StreamsChat) and backend.can_chat
