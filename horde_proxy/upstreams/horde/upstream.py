"""The horde as an upstream: a chat becomes a plan, the plan an answer, its items the stream.

What an answer consists of is not known here; see the room's docstring for the parts.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from typing import Any

from horde_proxy.aihorde import kudos
from horde_proxy.aihorde.image_reference import ImageModelFacts
from horde_proxy.caching.derived import Derived
from horde_proxy.errors import (
    ContextLengthExceeded,
    InMaintenance,
    InsufficientKudos,
    InvalidApiKey,
    ProxyError,
    Refused,
    Unavailable,
    Unreachable,
    UpstreamRefused,
)
from horde_proxy.printable import without_login
from horde_proxy.prompts.constrained import (
    ConstrainedRequest,
    constrained_request,
    refuse_broken_schemas,
    with_prefill,
    with_tools_told,
)
from horde_proxy.prompts.fit import is_begun
from horde_proxy.prompts.formats import with_neutral_stops
from horde_proxy.protocol import chunks
from horde_proxy.protocol.chunks import Head
from horde_proxy.protocol.generation_request import GenerationRequest, Message
from horde_proxy.protocol.models import entry_fields
from horde_proxy.telemetry import NO_TELEMETRY, Telemetry
from horde_proxy.upstreams.base import (
    REFUSED_PAUSE,
    Accepted,
    Caller,
    Route,
    Spent,
    StreamItem,
    Waiting,
)
from horde_proxy.upstreams.horde.accounts import Account, Accounts
from horde_proxy.upstreams.horde.answer_chain import AnswerItem
from horde_proxy.upstreams.horde.catalog import CHAT, Catalog, ModelEntry
from horde_proxy.upstreams.horde.chained_answer import ChainedAnswer
from horde_proxy.upstreams.horde.chat_answer import ChatAnswer, TextAnswer
from horde_proxy.upstreams.horde.choice_writer import ChoiceWriter
from horde_proxy.upstreams.horde.client import HordeClient, ProxyBanned
from horde_proxy.upstreams.horde.context import HordeContext
from horde_proxy.upstreams.horde.cost import AnswerCost
from horde_proxy.upstreams.horde.described_pictures import PictureDescriber
from horde_proxy.upstreams.horde.failures import Failures, RefusedChats
from horde_proxy.upstreams.horde.image_catalog import ImageCatalog
from horde_proxy.upstreams.horde.image_reference_loading import no_reference
from horde_proxy.upstreams.horde.image_upstream import HordeImages
from horde_proxy.upstreams.horde.lifecycle import Answered, Submitted
from horde_proxy.upstreams.horde.model_facts import model_facts
from horde_proxy.upstreams.horde.options import HordeOptions
from horde_proxy.upstreams.horde.own_account import OwnAccount
from horde_proxy.upstreams.horde.penalties import Penalties
from horde_proxy.upstreams.horde.plan import Plan, begun_messages, make_plan, same_format
from horde_proxy.upstreams.horde.settlements import Settlements
from horde_proxy.upstreams.horde.structured_answer import StructuredAnswer
from horde_proxy.upstreams.horde.submit_queue import SubmitQueue, Ticket
from horde_proxy.upstreams.horde.webhook import Webhook
from horde_proxy.upstreams.horde.workers import WorkerPool
from horde_proxy.upstreams.picture_links import PictureLinks

QUIET_SECONDS = 2.0
"""Seconds that a submit may be held back before the client's response begins, without an id."""
LOOK_AFTER = 200
"""Tokens after which a text that must have a certain form is looked at, to correct it early."""
MODELS_SECONDS = 1.0
"""Seconds that model objects stay good: making them costs more than a chat."""


class HordeUpstream:
    """One horde. Clocks and ids come in, so that tests need neither to wait nor to guess."""

    kind = "horde"
    offers_any = False
    proxy = None
    cooldown_errors: tuple[type[ProxyError], ...] = (Unreachable, InMaintenance, UpstreamRefused)

    def __init__(
        self,
        client: HordeClient,
        catalog: Catalog,
        options: HordeOptions,
        accounts: Accounts,
        submit_queue: SubmitQueue,
        *,
        name: str = "horde",
        links: PictureLinks | None = None,
        image_facts: Callable[[], Mapping[str, ImageModelFacts]] = no_reference,
        webhook: Webhook | None = None,
        settlements: Settlements | None = None,
        penalties: Penalties | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        now: Callable[[], float] = time.time,
        new_id: Callable[[], str] = lambda: f"chatcmpl-{uuid.uuid4().hex}",
        telemetry: Telemetry = NO_TELEMETRY,
    ) -> None:
        self.name, self.url, self.webhook = name, without_login(client.base), webhook
        self._options, self._now, self._new_id = options, now, new_id
        self.documents, self._models = catalog.documents, self._derived_models(catalog, clock)
        self._horde = HordeContext(
            client=client,
            catalog=catalog,
            accounts=accounts,
            submit_queue=submit_queue,
            failures=Failures(clock),
            refused_chats=RefusedChats(clock),
            clock=clock,
            sleep=sleep,
            options=options,
            webhook=webhook,
            settlements=settlements,
            penalties=penalties or Penalties(now=now),
            telemetry=telemetry,
        )
        self.images = self._images(links or PictureLinks(client.base), image_facts)
        self._describer = PictureDescriber(self._horde, options, name)

    def models(self) -> Sequence[dict[str, Any]]:
        """OpenAI's model objects for the models with online workers, by name."""
        return self._models.get()

    def refresh(self) -> None:
        """Drop the known models: the next call of models() loads them."""
        self._horde.catalog.refresh()

    def error(self) -> ProxyError | None:
        """Why the last load of the models failed; None when it did not."""
        return self._horde.catalog.error()

    def penalties(self) -> list[dict[str, Any]]:
        """What the horde has forbidden this proxy for a time; see Penalizes."""
        now = self._now()
        return [penalty.as_json(now) for penalty in self._horde.penalties.current()]

    def account(self, api_key: str | None) -> Account:
        """The account that pays for a client's chats."""
        return self._horde.accounts.of(self._options.key_for(api_key))

    def find_user(self, api_key: str) -> dict[str, Any]:
        """The account of any key, asked for now. Raises InvalidApiKey, and others."""
        return self._horde.client.find_user(api_key)

    @property
    def own_account(self) -> OwnAccount:
        """The account of the proxy's own key, for its operator."""
        return OwnAccount(self._horde.client, self._options.api_key)

    def shared(self, models: Sequence[str]) -> tuple[str, ...]:
        """Those of the models that may share one request with the first: of the same format."""
        return same_format(models, self._options)

    def stream(
        self, request: GenerationRequest, route: Route, caller: Caller
    ) -> Generator[StreamItem, None, None]:
        """See horde_proxy.upstreams.base. Closing it cancels what still runs.

        Accepted comes with the first submit, so that a refusal keeps its status; or earlier, when
        the submit is held back for longer than a client should hear nothing. It comes again with
        each later submit up to the first answer: the last one names the request that answered.
        """
        began, naming, has_content = self._horde.clock(), _Naming(), False
        if caller.journal is not None:
            caller.journal.started_at(self.name, route.models)
        opened: Head | None = None
        cost = AnswerCost()
        if request.has_pictures:
            request, opened, cost = yield from self._described(request, route.models, caller)
        answer, is_accepted = self._answer(request, route.models, caller), opened is not None
        answer.cost, head = cost, answer.head
        with self._own_faults_are_no_callers(caller), closing(answer.items()) as items:
            for item in items:
                is_quiet = isinstance(item, Waiting) and self._horde.clock() - began < QUIET_SECONDS
                has_content = has_content or isinstance(item, dict)
                is_renamed = naming.is_changed_by(item) and not has_content
                if is_renamed or not (is_accepted or is_quiet):
                    yield self._accepted(answer.plan, answer.cost, item)
                if not (is_accepted or is_quiet):
                    is_accepted = True
                    yield from (chunks.role_chunk(head, index) for index in range(request.n))
                if is_accepted and not isinstance(item, Submitted | Answered):
                    yield item

    def _described(
        self, request: GenerationRequest, models: Sequence[str], caller: Caller
    ) -> Generator[StreamItem, None, tuple[GenerationRequest, Head | None, AnswerCost]]:
        """Accepted and Waitings while the chat's pictures are put into words.

        It returns the chat in words, the head of the stream where that was accepted meanwhile, and
        what it cost. What no description would mend is refused before.
        """
        began, head = self._horde.clock(), None
        chat = self._describer.begin(request, caller)
        answer = self._answer(chat.request(), models, caller)
        with self._own_faults_are_no_callers(caller), closing(chat.items()) as items:
            for waiting in items:
                if head is None and self._horde.clock() - began >= QUIET_SECONDS:
                    head = answer.head
                    warnings = (*request.warnings, "messages: images are being described")
                    plan = replace(answer.plan, warnings=warnings)
                    yield self._accepted(plan, chat.cost, waiting)
                    yield from (chunks.role_chunk(head, index) for index in range(request.n))
                if head is not None:
                    yield waiting
        return chat.request(), head, chat.cost

    @contextmanager
    def _own_faults_are_no_callers(self, caller: Caller) -> Iterator[None]:
        """Raises UpstreamRefused for a refusal of the proxy or its key, which is no caller's fault.

        Too few kudos stay what they are: a caller may ask for less.
        """
        try:
            yield
        except (InvalidApiKey, Refused) as exc:
            is_callers = self._options.key_for(caller.api_key) == caller.api_key
            is_about_key = not isinstance(exc, ProxyBanned)
            if isinstance(exc, InsufficientKudos) or (is_callers and is_about_key):
                raise
            what = "the api_key that is configured for it" if is_about_key else "this proxy"
            raise UpstreamRefused(
                f"it refuses {what}: {exc} The owner of this proxy should look into it",
                retry_after=REFUSED_PAUSE,
            ) from exc

    def _accepted(self, plan: Plan, cost: AnswerCost, item: AnswerItem) -> Accepted:
        """The first item; its headers have the request's id where it is known already."""
        request_id = item.request_id if isinstance(item, Submitted | Answered) else None
        headers = {**plan.headers(request_id), "X-Endpoint": self.name}

        def spent() -> Spent:
            prompt_tokens = plan.fitted.prompt_tokens if cost.tokens else 0
            return Spent(prompt_tokens, cost.tokens, cost.kudos)

        return Accepted(headers, self.name, spent, is_early=request_id is None, late_kudos=cost)

    def _answer(
        self, request: GenerationRequest, models: Sequence[str], caller: Caller
    ) -> ChatAnswer | TextAnswer:
        """The answer to a request: a chat where workers take chats, else a text."""
        if not self._may_chat(request, models):
            return self._text_answer(request, models, caller)
        try:
            chat = self._chat_answer(request, models, caller)
        # Of the workers that take chats, none is there, or has room for this one.
        except (Unavailable, ContextLengthExceeded):
            return self._text_answer(request, models, caller)
        if chat.plan.fitted.is_shortened:
            with suppress(ProxyError):
                text = self._text_answer(request, models, caller)
                return chat if text.plan.fitted.is_shortened else text
        return chat

    def _may_chat(self, request: GenerationRequest, models: Sequence[str]) -> bool:
        """Whether a worker of the models takes chats, and its server probably this one."""
        horde = self._horde
        if request.raw or not self._offers_chats() or horde.refused_chats.is_refusing(models[0]):
            return False
        if is_begun(request.messages[-1]) and models[0] in horde.uncontinued:
            return False
        catalog = horde.catalog.models()
        entries = [catalog[name] for name in models if name in catalog]
        return any(worker.takes_chats for entry in entries for worker in entry.workers)

    def _offers_chats(self) -> bool:
        """Whether the settings permit chats, and the horde did not stop to announce them.

        Before the first answer, only the list of workers says that it does.
        """
        announced = self._horde.client.extensions
        return self._options.chat_jobs and (not announced or CHAT in announced)

    def _chat_answer(
        self, request: GenerationRequest, models: Sequence[str], caller: Caller
    ) -> ChatAnswer:
        refuse_broken_schemas(request)
        plan = self._plan(with_tools_told(request), models, caller, is_chat=True)

        def as_text(chat: ChatAnswer, so_far: str, tokens: int | None) -> TextAnswer:
            messages = begun_messages(request.messages, so_far)
            rest = replace(request, messages=messages, max_tokens=tokens)
            text = self._text_answer(rest, models, caller, chat.ticket, chat.head)
            text.cost = chat.cost
            return text

        return ChatAnswer(
            horde=self._horde,
            plan=plan,
            ticket=self._ticket(plan),
            request=request,
            writer=ChoiceWriter(self._head(plan), ConstrainedRequest(request, "")),
            retries=self._options.tool_retries,
            as_text=as_text,
        )

    def _text_answer(
        self,
        request: GenerationRequest,
        models: Sequence[str],
        caller: Caller,
        ticket: Ticket | None = None,
        head: Head | None = None,
    ) -> TextAnswer:
        """The answer as a text, with the ticket and head of another one where it replaces that."""
        request = replace(request, messages=tuple(map(_without_reasoning, request.messages)))
        if not request.raw:
            format = self._options.format(models[0])
            request = replace(request, stop=with_neutral_stops(request.stop, format))
        structure = constrained_request(request, self._options.tool_style(models[0]))
        if structure is None:
            plan = self._plan(request, models, caller)
            ticket, head = ticket or self._ticket(plan), head or self._head(plan)
            return ChainedAnswer(self._horde, plan, ticket, head, caller.deadline)
        begun = with_prefill(structure.request.messages, structure.prefill)
        plan = self._plan(replace(structure.request, messages=tuple(begun)), models, caller)
        # The answer adds the beginning itself, to each of its attempts.
        plan = replace(plan, request=structure.request, first_length=_first_length(structure))
        return StructuredAnswer(
            horde=self._horde,
            plan=plan,
            ticket=ticket or self._ticket(plan),
            structure=structure,
            writer=ChoiceWriter(head or self._head(plan), structure),
            retries=self._options.tool_retries,
            most_leaves=self._options.most_leaves,
        )

    def _ticket(self, plan: Plan) -> Ticket:
        """The answer's place in the submit queue, the same for all of its requests."""
        return self._horde.submit_queue.new_ticket(
            plan.api_key,
            plan.caller.client,
            is_background=plan.caller.is_job,
            weight=plan.caller.weight,
        )

    def _head(self, plan: Plan) -> Head:
        """What all of its chunks have in common."""
        return Head(self._new_id(), int(self._now()), plan.models[0])

    def _plan(
        self,
        request: GenerationRequest,
        models: Sequence[str],
        caller: Caller,
        *,
        is_chat: bool = False,
    ) -> Plan:
        api_key = self._options.key_for(caller.api_key)
        size = max(map(kudos.assumed_size, models))
        accounts = self._horde.accounts
        longest = accounts.max_length(api_key, size, request.n)
        fast_only_affordable = accounts.fast_only_affordable(api_key, longest, size, request.n)
        return make_plan(
            request,
            caller,
            models,
            self._horde.catalog.models(),
            self._options,
            affordable_length=longest,
            fast_only_affordable=fast_only_affordable,
            is_chat=is_chat,
        )

    def _images(
        self, links: PictureLinks, facts: Callable[[], Mapping[str, ImageModelFacts]]
    ) -> HordeImages:
        catalog = ImageCatalog(self.documents, facts=facts, now=self._now)
        return HordeImages(self._horde, catalog, self._options, links, name=self.name)

    def _derived_models(
        self, catalog: Catalog, clock: Callable[[], float]
    ) -> Derived[tuple[Mapping[str, ModelEntry]], list[dict[str, Any]]]:
        return Derived(
            lambda: (catalog.models(),),
            lambda source: [self._model(entry) for entry in source[0].values()],
            max_age=MODELS_SECONDS,
            clock=clock,
        )

    def _model(self, entry: ModelEntry) -> dict[str, Any]:
        """The entry of GET /v1/models, with a `horde` object; `max_length` is one worker's.

        Only workers that the settings admit count. Without one the model is listed as not
        available: a request may have other filters.
        """
        pool = WorkerPool(entry.workers, self._options.filters)
        eligible = pool.eligible
        is_available = (
            {"available": True}
            if eligible
            else {"available": False, "reason": f"{pool.exclusion()}."}
        )
        entry = replace(entry, workers=eligible or entry.workers)
        capacity = entry.largest_context_worker().capacity
        takes_chats = self._offers_chats() and any(worker.takes_chats for worker in eligible)
        expected = self._horde.throughput.expected(entry, capacity.max_length)
        return {
            "id": entry.name,
            "object": "model",
            "created": entry.first_seen,
            "owned_by": "ai-horde",
            "root": entry.name,
            "parent": None,
            "per_request_limits": None,
            **entry_fields(model_facts(entry, self._options, takes_chats=takes_chats)),
            "horde": {
                **is_available,
                "workers": len(eligible),
                "threads": sum(worker.threads for worker in eligible),
                "max_length": capacity.max_length,
                "queued_tokens": entry.queued,
                "eta": entry.eta,
                "tokens_per_second": entry.performance,
                "expected_seconds": round(expected.queue + expected.generation, 1),
                "format": self._options.format(entry.name).name,
                "tools": self._options.tool_style(entry.name),
                **({"chat": True} if takes_chats else {}),
            },
        }


class _Naming:
    """Follows which request answers first: the last one that was submitted before, or another."""

    def __init__(self) -> None:
        self._request_id, self._has_answered = "", False

    def is_changed_by(self, item: AnswerItem) -> bool:
        """Whether the item names another request than before."""
        if self._has_answered or not isinstance(item, Submitted | Answered):
            return False
        before, self._request_id = self._request_id, item.request_id
        self._has_answered = isinstance(item, Answered)
        return self._request_id != before


def _without_reasoning(message: Message) -> Message:
    """A message of a text: models are trained without their past reasoning."""
    return replace(message, reasoning="") if message.reasoning else message


def _first_length(structure: ConstrainedRequest) -> int:
    """Tokens of the first segment, 0 for no shorter one: an answer that may be text has none."""
    may_be_text = structure.request.tools and structure.request.tool_choice == "auto"
    return 0 if may_be_text else LOOK_AFTER
