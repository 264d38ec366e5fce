"""Tries the candidates one after another, until one of them answers.

A stream may change its upstream until the client has seen content. Only one generator frame of
this room lies between the front and the upstream: a thousand clients wait in these frames.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from typing import cast

from horde_proxy.errors import (
    AnswerLost,
    ClientGone,
    ContextLengthExceeded,
    InsufficientKudos,
    InvalidRequest,
    ProxyError,
    RateLimited,
    ShuttingDown,
    TimedOut,
    Unavailable,
    UpstreamFailed,
    UpstreamRefused,
)
from horde_proxy.protocol.chunks import Chunk
from horde_proxy.protocol.generation_request import GenerationRequest
from horde_proxy.protocol.leniency import warnings_header
from horde_proxy.router.candidates import Candidate, Candidates, named
from horde_proxy.router.entering import Entered, entered, woken
from horde_proxy.router.health import EndpointAttempt
from horde_proxy.router.hedge import HedgeRules, Lead
from horde_proxy.router.hedged_call import HedgedCall, may_hedge
from horde_proxy.router.hedged_stream import HedgedStream
from horde_proxy.upstreams.base import HELD_BACK, Accepted, Caller, Proxy, StreamItem, Waiting
from horde_proxy.upstreams.disconnects import CallGuard
from horde_proxy.upstreams.openai.answer_start import error_at_start
from horde_proxy.upstreams.openai.errors import read_refusal, server_error
from horde_proxy.upstreams.proxying import ProxyRequest, ProxyResponse

_QUIET_WAITINGS = 3
"""Waitings in line after which a client's response begins, so that keep-alives can reach it. A line
that is full has refused it before."""
_NOT_SUPPORTED = frozenset({404, 405, 501})
"""The statuses of a server that does not know a file, a path or a method."""


def stream(
    request: GenerationRequest,
    candidates: Candidates,
    caller: Caller,
    hedge: HedgeRules | None = None,
) -> Generator[StreamItem, None, None]:
    """The items of the first candidate that answers, see horde_proxy.upstreams.base.

    With `hedge`, a late one gets another one beside it; see hedge.py. Raises the error of
    `candidates`, or of the upstream once the client has seen content.
    """
    spliced = SplicedStream()
    for first, its_attempt in candidates:
        entering = entered(candidates, first, its_attempt, caller)
        taken = yield from _kept_alive(request, spliced, entering)
        if taken is None:
            continue
        candidate, attempt = taken
        route, lead = candidate.route, Lead(candidate, attempt)
        may_fail_over = partial(_may_fail_over, candidates, candidate, spliced)
        own = replace(caller, may_fail_over=may_fail_over, endpoint=route.upstream.name)
        with _next_one_may_answer(candidates, lead, spliced, caller):
            if hedge is not None:
                hedged = HedgedStream(hedge, request, candidates, lead, spliced.splice)
                with closing(hedged.items(own)) as chosen:
                    yield from filter(None, chosen)
                return
            with closing(route.upstream.stream(request, route, own)) as items:
                # map and filter add no Python frame, as another generator would.
                yield from filter(None, map(partial(spliced.splice, candidate, attempt), items))
            return
    raise candidates.error()


def _kept_alive(
    request: GenerationRequest,
    spliced: SplicedStream,
    entering: Generator[Waiting, None, Entered | None],
) -> Generator[StreamItem, None, Entered | None]:
    """The same, and an early Accepted among the Waitings, so that keep-alives reach the client.

    There is none after another Accepted: it would hide what an endpoint that failed has cost.
    """
    waitings = 0
    with closing(entering):
        while True:
            try:
                waiting = next(entering)
            except StopIteration as end:
                return cast("Entered | None", end.value)
            # A client that has gone reads no keep-alives.
            if waiting.state != HELD_BACK:
                waitings += 1
                if waitings == _QUIET_WAITINGS and not spliced.is_accepted:
                    spliced.is_accepted = True
                    yield _early(request)
            yield waiting


def _early(request: GenerationRequest) -> Accepted:
    """What begins a client's response while its request is in line."""
    # A request for pictures, which the router takes as well, has one kind of warnings.
    texts = getattr(request, "warnings_anywhere", request.warnings)
    headers = {"X-Horde-Warnings": warnings_header(texts)} if texts else {}
    return Accepted(headers, is_early=True)


def _may_fail_over(candidates: Candidates, candidate: Candidate, spliced: SplicedStream) -> bool:
    """Whether another endpoint may answer now, instead of this candidate's."""
    return not spliced.has_content and candidates.has_other_endpoint(candidate)


@contextmanager
def _next_one_may_answer(
    candidates: Candidates, lead: Lead, spliced: SplicedStream, caller: Caller
) -> Iterator[None]:
    """Suppress the failure of a candidate if another one may answer instead; end the attempt.

    It is that of the candidate that leads when it happens.
    """
    try:
        yield
    except ContextLengthExceeded as exc:
        # The same model has the same context elsewhere; only a fallback may have a larger one.
        if spliced.has_content or not candidates.has_fallback():
            raise
        candidates.overflowed(exc)
    except InsufficientKudos as exc:
        # The proxy's own account has too few. With `param`, it is the client's own limit.
        is_clients = caller.api_key is not None or exc.param is not None
        if spliced.has_content or is_clients or not candidates:
            raise
        candidates.failed(lead.candidate, lead.attempt, exc)
    except (UpstreamFailed, Unavailable, RateLimited, TimedOut) as exc:
        if spliced.has_content or isinstance(exc, ShuttingDown):
            raise named(lead.candidate.endpoint.name, exc) from exc.__cause__
        candidates.failed(lead.candidate, lead.attempt, exc)
        if not candidates:
            raise candidates.error() from exc
    finally:
        lead.attempt.end()


class SplicedStream:
    """The answer as one client has seen it, over all upstreams that were tried for it.

    `is_accepted`: an Accepted has begun the client's response. `has_content`: the client has seen
    content, so no other upstream may answer any more.
    """

    def __init__(self) -> None:
        self.is_accepted = False
        self.has_content = False
        self._first: Chunk | None = None
        self._roles: set[int] = set()

    def splice(
        self, candidate: Candidate, attempt: EndpointAttempt, item: StreamItem
    ) -> StreamItem | None:
        """The item for the client; None if an earlier upstream has already sent the same.

        All chunks get one id. Each upstream's Accepted is passed on: the last one names who
        answers, and its cost is the answer's.
        """
        if isinstance(item, Waiting):
            return item
        if isinstance(item, Accepted):
            self.is_accepted = True
            if not item.is_early:
                attempt.answered()
            return replace(item, model=candidate.model)
        return None if self._is_repeated_role(item) else self._with_first_id(item)

    def _is_repeated_role(self, chunk: Chunk) -> bool:
        # The first chunk of each choice has the role and no content. A second one would make it
        # "assistantassistant" in openai-python, whose accumulate_delta joins all strings.
        roles = {choice["index"] for choice in chunk["choices"] if "role" in choice["delta"]}
        is_repeated = bool(roles) and roles <= self._roles
        self._roles |= roles
        self.has_content = self.has_content or not roles
        return is_repeated

    def _with_first_id(self, chunk: Chunk) -> Chunk:
        # All chunks of a stream have the same id and time (OpenAI's specification of the chunk).
        if self._first is None:
            self._first = chunk
        if chunk["id"] == self._first["id"]:
            return chunk
        return {**chunk, "id": self._first["id"], "created": self._first["created"]}


def proxy(
    call: ProxyRequest,
    candidates: Candidates,
    caller: Caller,
    hedge: HedgeRules | None = None,
) -> Generator[Waiting, None, ProxyResponse | None]:
    """Waitings, then the response of the first candidate that gives a good one.

    With `hedge`, a late one gets another one beside it; see hedge.py.

    It is None if the next candidate cannot proxy the call, or no candidate is left. The only
    candidate's failed response is passed on where its status is the right one for the client.
    Closing the response ends the attempt. Raises InvalidRequest for a refusal that came as a
    success.
    """
    response: ProxyResponse | None = None
    for first, its_attempt in candidates.proxying():
        if response is not None:
            response.close()
            response = None
        if not _may_take(call, first):
            its_attempt.end()
            candidates.put_back(first)
            return None
        taken = yield from _entered(call, candidates, first, its_attempt, caller)
        if taken is None:
            continue
        lead = Lead(*taken)
        if hedge is None or not may_hedge(call):
            response, is_good = yield from _try(call, candidates, lead)
        else:
            begin, may_take = partial(_try, call, candidates), partial(_may_take, call)
            hedged = HedgedCall(hedge, candidates, lead, begin, may_take)
            response, is_good = yield from hedged.outcome(call, caller)
        if response is not None and is_good:
            # The server does not know this path; the caller can send it a chat instead.
            if call.is_optional and response.status in _NOT_SUPPORTED:
                response.close()
                lead.candidate.endpoint.missing.add(call.path, lead.candidate.models[0])
                candidates.put_back(lead.candidate)
                return None
            return response
    # Its own words say more than an error of ours would.
    if response is not None and candidates.is_only and not candidates:
        return response
    if response is not None:
        response.close()
    return None


def _may_take(call: ProxyRequest, candidate: Candidate) -> bool:
    """Whether a candidate can be sent the call, as far as is known."""
    is_missing = call.is_optional and candidate.endpoint.missing.has(call.path, candidate.models[0])
    return candidate.endpoint.can_proxy and not is_missing


def _entered(
    call: ProxyRequest,
    candidates: Candidates,
    candidate: Candidate,
    attempt: EndpointAttempt,
    caller: Caller,
) -> Generator[Waiting, None, Entered | None]:
    """See entering.entered. A call about files or batches names no model, and needs no slot."""
    if not call.model:
        return (yield from woken(candidates, candidate, attempt, caller))
    may_take = partial(_may_take, call)
    return (yield from entered(candidates, candidate, attempt, caller, may_take))


def _try(
    call: ProxyRequest, candidates: Candidates, lead: Lead
) -> Generator[Waiting, None, tuple[ProxyResponse | None, bool]]:
    """The response and whether it is good; (None, False) if there is none for the client."""
    candidate, attempt = lead.candidate, lead.attempt
    send = candidate.endpoint.upstream.proxy
    assert send is not None
    try:
        model = candidate.models[0] if call.model else None
        if call.helper is None:
            response = send(call, model)
        else:
            response = yield from call.helper.send(partial(_sent_beside, send, call, model))
    except ProxyError as exc:
        # This is not the endpoint's fault, and another endpoint would not do better.
        if not isinstance(exc, ClientGone | ShuttingDown):
            candidates.failed(candidate, attempt, exc)
            if _may_have_acted(call, exc):
                raise
            return None, False
        attempt.end()
        raise
    except BaseException:
        attempt.end()
        raise
    response.on_close.append(attempt.end)
    try:
        response.model = candidate.model
        response.headers.append(("X-Endpoint", candidate.endpoint.name))
        return _judged(call, response, candidate, attempt, candidates)
    except BaseException:
        response.close()
        raise


def _sent_beside(
    send: Proxy, call: ProxyRequest, model: str | None, guard: CallGuard
) -> ProxyResponse:
    """The response, whose first event or error has come as well: judging it waits for nothing."""
    response = send(call, model, guard)
    try:
        if response.status == 200:
            error_at_start(response)
        elif response.status >= 400:
            read_refusal(response)
    except BaseException:
        response.close()
        raise
    return response


def _may_have_acted(call: ProxyRequest, exc: ProxyError) -> bool:
    """Whether a second batch or file could come into being at the next endpoint.

    A call that names a model is a generation: the next endpoint's is as good, and nothing is kept.
    """
    is_taken = isinstance(exc, AnswerLost | TimedOut) and call.method in ("POST", "PATCH")
    return is_taken and call.model is None


def _judged(
    call: ProxyRequest,
    response: ProxyResponse,
    candidate: Candidate,
    attempt: EndpointAttempt,
    candidates: Candidates,
) -> tuple[ProxyResponse | None, bool]:
    """The response and whether the client should get it, instead of the next candidate's."""
    error = _error(call, response, candidate)
    if isinstance(error, InvalidRequest):
        attempt.answered()
        return _refused(response, error, candidates)
    if error is not None:
        candidates.failed(candidate, attempt, error)
        # A client would take another status for its own fault, and a 200 for an answer.
        is_clear = response.status == 429 or response.status >= 500
        if is_clear and not isinstance(error, UpstreamRefused):
            return response, False
        response.close()
        return None, False
    attempt.answered()
    if response.status in _NOT_SUPPORTED and _may_be_supported(call, candidates):
        candidates.not_supported(candidate, response.status)
        return response, False
    return response, True


def _may_be_supported(call: ProxyRequest, candidates: Candidates) -> bool:
    """Whether another endpoint may have the file, or know the path, that this one does not know.

    Many servers of texts have no images API: fallbacks for their models are hordes.
    """
    if call.is_optional:
        return False
    is_for_images = call.path.startswith("images/")
    return candidates.has_equal() or (is_for_images and candidates.has_fallback())


def _refused(
    response: ProxyResponse, error: InvalidRequest, candidates: Candidates
) -> tuple[ProxyResponse | None, bool]:
    """The same for a refusal of the request itself. Raises it if its status is not a refusal's."""
    if isinstance(error, ContextLengthExceeded) and candidates.has_fallback():
        candidates.overflowed(error)
        return response, False
    # With a true status, the refusal goes to the client unchanged.
    if 400 <= response.status < 500:
        return response, True
    raise error


def _error(call: ProxyRequest, response: ProxyResponse, candidate: Candidate) -> ProxyError | None:
    """The error that the response is, or that broke it off at its start."""
    listed = candidate.endpoint.last_models()
    try:
        return server_error(
            response,
            is_listed=candidate.model in listed,
            # Only these answers are known to be JSON or events. A file may hold anything.
            reads_body=call.method == "POST" and bool(call.model) and not _is_audio(call),
        )
    except (ClientGone, ShuttingDown):
        raise
    except ProxyError as exc:
        return exc


def _is_audio(call: ProxyRequest) -> bool:
    """Whether the answer may be sound, or a transcription: any text."""
    return call.path.startswith("audio/")
