"""Records of requests: what clients submit, the jobs for it, and their results. See `records`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

TEXT, IMAGE, ALCHEMY = "text", "image", "interrogation"
"""The kinds of requests, and of the workers that take them: AI-Horde's names of the latter."""


@dataclass(eq=False)
class HordeRequest:
    """A client's request, of any kind. Always n == finished + processing + waiting.

    `rank` and `queued_at` sort the queue and never change (see `queue`). `held` are the reserved
    kudos and `kudos` the consumed ones. `expires` is None once the request is forgotten; its row
    stays until its last running job has ended. `shared_key` is the key that it was sent with, and
    `key_held` what is reserved of that key's kudos. Calls of its `webhook` are signed with
    `webhook_key`. With `is_chat`, only workers that offer chats get it. `needs` are what decides
    about an image (see `image_needs`) or alchemy (see `alchemy_requests`), and `work`, what one
    result takes of a worker: pixel-steps, forms. Their lengths are 0.
    """

    id: str
    account_id: int
    n: int
    max_length: int
    max_context_length: int
    prompt_length: int
    models: tuple[str, ...]
    workers: tuple[str, ...]
    worker_blacklist: bool
    trusted_workers: bool
    validated_backends: bool
    slow_workers: bool
    created: float
    rank: float
    queued_at: float
    expires: float | None
    waiting: int
    held: float = 0.0
    processing: int = 0
    finished: int = 0
    restarted: int = 0
    faulted: bool = False
    kudos: float = 0.0
    shared_key: str | None = field(default=None, repr=False)
    key_held: float = 0.0
    webhook: str | None = field(default=None, repr=False)
    webhook_key: str = field(default="", repr=False)
    is_chat: bool = False
    kind: str = TEXT
    needs: dict[str, Any] = field(default_factory=dict)

    @property
    def work(self) -> int:
        """What one result takes of a worker: tokens, pixel-steps, or a form."""
        return int(self.needs.get("work", self.max_length))

    @property
    def order(self) -> tuple[float, float, str]:
        """Sorts the queue: the least comes first."""
        return (self.rank, self.queued_at, self.id)

    @property
    def forgotten(self) -> bool:
        """Whether it was cancelled or has expired."""
        return self.expires is None

    @property
    def settled(self) -> bool:
        """Whether no more results will come: all were delivered, or the request faulted."""
        return self.faulted or self.finished >= self.n

    @property
    def open(self) -> bool:
        """Whether results are still to come, for a client that waits for them."""
        return not self.settled and not self.forgotten

    @property
    def queued(self) -> bool:
        """Whether a worker may pop one of its results."""
        return self.waiting > 0 and self.open

    @property
    def done(self) -> bool:
        """The `done` of the status, by the real horde's formula (waiting_prompt.py:466-473).

        It counts restarts as results, so after two restarts it is true although the third attempt
        is still running (capture text_status_done_empty_while_processing).
        """
        if self.faulted:
            return True
        results = self.finished + self.restarted - self.processing
        return self.waiting == 0 and results >= self.n


@dataclass(eq=False)
class Payload:
    """What a worker gets of a request. It is kept apart: only a pop needs it.

    A request has a prompt, or a `chat` (see `chats`), which is {} for those with a prompt.
    """

    request_id: str
    prompt: str = field(repr=False)
    params: dict[str, Any]
    chat: dict[str, Any] = field(default_factory=dict, repr=False)


@dataclass(eq=False)
class Job:
    """One result that a worker has popped. `state` starts as "processing" and changes once.

    Afterwards it is ok, censored, csam, faulted (the worker gave up) or aborted (time ran out).
    `deadline` is None from then on. `owner_id` is the account of the worker. `slot` is the place of
    its result in the request, from 0. `begun` are the characters of this result that a worker wrote
    that was lost; the job continues them.
    """

    id: str
    request_id: str
    worker_id: str
    owner_id: int
    model: str
    popped: float
    deadline: float | None
    state: str = "processing"
    slot: int = 0
    begun: int = 0


@dataclass(eq=False)
class StoredGeneration:
    """The text of a delivered job. `number` counts the deliveries of its request, from 1.

    It keeps the worker's name of that time: a worker may be renamed or deleted. The text of a chat
    is its transcript, and `chat` what that amounts to (see `chats.result`); {} for other texts. An
    image has no text: it is a stored picture with the id of the job. That of a form of alchemy is
    its result as JSON.
    """

    job_id: str
    request_id: str
    number: int
    text: str = field(repr=False)
    # Most workers send 0.
    seed: int
    # Entries such as {"type": "censorship", "value": "csam"}.
    gen_metadata: list[dict[str, Any]]
    state: str
    model: str
    worker_id: str
    worker_name: str
    chat: dict[str, Any] = field(default_factory=dict, repr=False)


@dataclass(eq=False)
class GrowingText:
    """What was saved of a result that a worker is writing, by its slot in the request."""

    request_id: str
    slot: int
    text: str = field(repr=False)


@dataclass(eq=False)
class WebhookCall:
    """A delivered job that a request's webhook has to learn of, at `due`.

    `key` signs it, `kudos` is what the job earned; `attempts` have been made so far.
    """

    id: int
    due: float
    request_id: str
    job_id: str
    url: str = field(repr=False)
    key: str = field(repr=False)
    kudos: float
    attempts: int = 0
