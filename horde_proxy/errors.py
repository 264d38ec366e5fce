"""The errors that a client can receive, in OpenAI's envelope. No I/O, no Flask.

ProxyError                      status  code
|- InvalidRequest                  400  the caller's choice, e.g. invalid_type
|  |- ContextLengthExceeded        400  context_length_exceeded
|  |  |- ModelTooSmall             400  model_too_small
|  |  '- UpstreamContextExceeded   400  context_length_exceeded
|  |- ContentPolicyViolation       400  content_policy_violation
|  |- SettingsRefused              400  settings_refused
|  '- ToolCallFailed               400  tool_call_failed
|- InvalidApiKey                   401  invalid_api_key
|- Refused                         403  forbidden
|  |- RequestRefused               403  access_mode_required
|  '- InsufficientKudos            403  insufficient_quota
|- ModelNotFound                   404  model_not_found
|- RateLimited                     429  rate_limit_exceeded
|  |- TooManyWrongKeys             429  too_many_wrong_keys
|  '- DailyLimitReached            429  daily_limit_reached
|- ClientGone                      499  client_closed_request
|- ServerBug                       500  null
|- BodyNotStored                   503  cannot_store_body
|- UpstreamFailed                  502  upstream_error
|  |- Unreachable                   502  upstream_error
|  |- AnswerLost                    502  upstream_error
|  |- UpstreamRefused               502  upstream_error
|  '- UpstreamUnfit                 502  upstream_error
|- Unavailable                     503  no_workers
|  |- NoEligibleWorker              503  no_workers
|  |- InMaintenance                503  maintenance
|  |- AllEndpointsFailed           503  no_endpoint
|  |  '- AllEndpointsUnfit         503  no_endpoint
|  |     '- AllEndpointsClosed     503  no_endpoint
|  '- ShuttingDown                 503  shutting_down
'- TimedOut                        504  timeout

The status decides whether a client tries again: the OpenAI SDKs and the AI SDK repeat 408, 409,
429 and every 5xx (`Retry-After` tells when; the OpenAI SDKs obey `x-should-retry` too). opencode
repeats those, and any other error whose message contains certain words or digits. Errors that a
retry cannot mend are stripped of these here, and only here (`without_retry_triggers`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

# What opencode 1.18 takes for a temporary failure, anywhere in the message: a request whose 400
# said "1500" or "try again later" was sent six times in 78 seconds. The words are those of its
# list, and some near them; "terminated" is in "Unterminated string" of Python's JSON errors too.
_RETRY_NUMBER = re.compile("429|500|502|503|504|524")
_RETRY_WORDS = (
    r"rate.?limit|rate increased too quickly|too many requests|overloaded|at capacity"
    r"|internal.?(?:server.?)?error|server.?error|provider.returned.error|network[-_\s]error"
    r"|(?:un)?terminated|fetch failed|failed to fetch|upstream connect|reset before headers"
    r"|connection (?:refused|reset|error|closed|lost)|socket connection was closed"
    r"|socket hang up|getaddrinfo|enotfound|eai_again|econnrefused|econnreset|etimedout"
    r"|tim(?:ed?|e) ?out|try again|(?:try|retry) your request|resource.exhausted"
    r"|unavailable|temporar\w+"
)
_RETRY_TRIGGER = re.compile(rf"(?P<number>\d+(?:[.,]\d+)*)|{_RETRY_WORDS}", re.IGNORECASE)
# What a reader copies: quotations (`a`, "b", 'c', but no apostrophe as in "model's"), and words.
_QUOTATION = r"""`[^`\n]*`|"[^"\n]*"|(?<!\w)'[^'\n]*'(?!\w)"""
_VERBATIM = re.compile(rf"(?P<quotation>{_QUOTATION})|[\w./-]+")


def without_retry_triggers(message: str) -> str:
    """The message without the numbers and words that make opencode repeat a request in vain.

    Quotations, names and the numbers in them stay, even those that opencode reacts to: a name
    that is shown wrongly misleads every reader. A number goes as a whole, since "1…" for 1500
    would be read as a number.
    """
    parts, position = [], 0
    for word in _VERBATIM.finditer(message):
        if word["quotation"] is not None or _is_name(word.group()):
            parts += [_RETRY_TRIGGER.sub(_left_out, message[position : word.start()]), word.group()]
            position = word.end()
    return "".join(parts) + _RETRY_TRIGGER.sub(_left_out, message[position:])


def _is_name(word: str) -> bool:
    """Whether a word is a name or a path: SmolLM2-135M, foo-1500b, koboldcpp/x, /v1/models."""
    has_letter = any(character.isalpha() for character in word)
    return has_letter and any(character.isdigit() or character == "/" for character in word)


def _left_out(trigger: re.Match[str]) -> str:
    number = trigger["number"]
    return number if number is not None and not _RETRY_NUMBER.search(number) else "…"


def harmless_number(number: int) -> int:
    """The next number that opencode does not take for a status when it is written with commas.

    1,500 becomes 1,501 and 5,024 stays. For estimates, whose last digit means nothing.
    """
    while _RETRY_NUMBER.search(f"{number:,}"):
        number += 1
    return number


class ProxyError(Exception):
    """An error with everything that its response needs.

    `status` is HTTP's, `type` and `code` are OpenAI's, `param` names the faulty field of the
    body, `retry_after` is in seconds. `should_retry` fills the header `x-should-retry`, which the
    OpenAI SDKs obey before they look at the status; None leaves it out. `jobs_wait`: a job, which
    has hours, is tried again all the same.
    """

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: str | None = None
    retry_after: int | None = None
    should_retry: ClassVar[bool | None] = None
    jobs_wait: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.param = param
        if code is not None:
            self.code = code
        if retry_after is not None:
            self.retry_after = retry_after

    @property
    def message(self) -> str:
        """The text for the client, without retry triggers if a retry cannot help."""
        text = str(self)
        # The OpenAI SDKs and the AI SDK repeat 408 and 409 as well.
        may_retry = self.status >= 500 or self.status in (408, 409, 429)
        return text if may_retry else without_retry_triggers(text)

    def envelope(self) -> dict[str, Any]:
        """OpenAI's error object: {"error": {"message", "type", "param", "code"}}."""
        return error_envelope(self.message, self.type, param=self.param, code=self.code)

    def headers(self, *, for_job: bool = False) -> dict[str, str]:
        """The response headers that say whether and when to try again."""
        headers = {}
        if self.retry_after is not None:
            headers["Retry-After"] = str(self.retry_after)
        if self.should_retry is not None and not (for_job and self.jobs_wait):
            headers["x-should-retry"] = "true" if self.should_retry else "false"
        return headers


def error_envelope(
    message: str, kind: str, *, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """OpenAI's error object. SDKs need all four keys, and a string as the message."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


class InvalidRequest(ProxyError):
    """The body, a header or a parameter is wrong. No client repeats a 400 with clean words."""

    status = 400
    type = "invalid_request_error"


class ContextLengthExceeded(InvalidRequest):
    """The prompt is longer than any worker's context.

    OpenAI's own words and code: by them opencode compacts the chat, and LiteLLM raises
    ContextWindowExceededError, instead of retrying. Both classify this text before they look for
    retry triggers, so its numbers stay.
    """

    code = "context_length_exceeded"
    lengths: tuple[int, int] | None = None
    """The tokens that are needed, and those that there are, where both are known."""

    def __init__(self, limit: int, needed: int) -> None:
        self.lengths = (needed, limit)
        super().__init__(
            f"This model's maximum context length is {limit} tokens. However, your messages "
            f"resulted in {needed} tokens. Please reduce the length of the messages.",
            param="messages",
        )

    @property
    def message(self) -> str:
        """The text for the client, numbers included."""
        return str(self)


class ModelTooSmall(ContextLengthExceeded):
    """System prompt, tools and last message alone have no room: a shorter history cannot help.

    Neither the code nor a word of the message may be one by which a client compacts its chat and
    sends it again, for no end and each time paid: opencode, Cline, Roo and Codex look for
    `context_length_exceeded` and for words such as "context length", "maximum", "exceeds", "too
    long", Claude Code for "prompt is too long". A subclass, since here a model with a larger
    context is the remedy as well: fallbacks are tried.
    """

    code = "model_too_small"

    def __init__(self, room: int, needs: Mapping[str, int], answer: int) -> None:
        """`needs` are the tokens of each part of the prompt, `answer` those after it."""
        needs = {name: harmless_number(tokens) for name, tokens in needs.items() if tokens}
        total = sum(needs.values()) + answer
        # The figures have to add up. The answer's is a minimum, so that it may be larger.
        while harmless_number(total) != total or harmless_number(answer) != answer:
            answer, total = answer + 1, total + 1
        parts = [f"{name} {tokens:,} tokens" for name, tokens in needs.items()]
        InvalidRequest.__init__(
            self,
            f"The model is too small for this request, also without its older messages: "
            f"{', '.join(parts)} and answer {answer:,} tokens are {total:,} tokens, and the model "
            f"has room for {_harmless_below(room):,}. Use a model with more room, or fewer tools.",
            param="messages",
        )


def _harmless_below(number: int) -> int:
    """The nearest such number that is not larger."""
    while harmless_number(number) != number:
        number -= 1
    return number


class UpstreamContextExceeded(ContextLengthExceeded):
    """Another server refused the prompt as too long; its own words are passed on."""

    def __init__(self, message: str) -> None:
        # Not super(): the parent makes a message of two numbers, which are not known here.
        InvalidRequest.__init__(self, message, param="messages")


class ContentPolicyViolation(InvalidRequest):
    """The horde's filter refused the prompt; a 400, because a retry would be refused as well."""

    code = "content_policy_violation"


class ToolCallFailed(InvalidRequest):
    """The model wrote no usable call although `tool_choice` required one.

    A 400, not a 5xx: clients would repeat a 5xx, each time at the price of several generations.
    """

    code = "tool_call_failed"


class SettingsRefused(InvalidRequest):
    """The settings cannot be changed like that, on a page; the message says why."""

    code = "settings_refused"


class InvalidApiKey(ProxyError):
    """The key is unknown here or to the horde. Clients ask their user for another one."""

    status = 401
    type = "invalid_request_error"
    code = "invalid_api_key"


class Refused(ProxyError):
    """The caller is known but not allowed to do this. No client repeats a 403."""

    status = 403
    type = "invalid_request_error"
    code = "forbidden"


class RequestRefused(Refused):
    """A proxy without keys does not serve clients of this kind, whoever they are."""

    code = "access_mode_required"


class InsufficientKudos(Refused):
    """The horde wants more kudos than the account has.

    OpenAI's code for an empty account, but not its status 429, which every client would repeat.
    """

    type = "insufficient_quota"
    code = "insufficient_quota"


class ModelNotFound(ProxyError):
    """No endpoint has a `model` of this name; `near` are similar names, for the message.

    OpenAI's own words and code: clients show them instead of trying again.
    """

    status = 404
    type = "invalid_request_error"
    code = "model_not_found"

    def __init__(self, model: str, near: Sequence[str] = ()) -> None:
        self.model, self.near = model, near
        hint = " Available: " + ", ".join(f"`{name}`" for name in near) + "." if near else ""
        super().__init__(
            f"The model `{model}` does not exist or you do not have access to it.{hint}",
            param="model",
        )


class RateLimited(ProxyError):
    """Too many requests, by a limit of ours or of a server. Clients wait `Retry-After` seconds."""

    status = 429
    type = "requests"  # OpenAI's word for a limit on calls; "tokens" is the other one
    code = "rate_limit_exceeded"
    retry_after = 5


class TooManyWrongKeys(RateLimited):
    """Too many wrong keys came from the client's address. Sending this one again does not help."""

    code = "too_many_wrong_keys"
    should_retry = False


class DailyLimitReached(RateLimited):
    """A key's limit for the day is used up.

    OpenAI's SDKs would repeat a 429 within seconds; `x-should-retry: false` stops them.
    """

    code = "daily_limit_reached"
    should_retry = False


class ClientGone(ProxyError):
    """The client closed its connection. For logs only, under nginx's status 499."""

    status = 499
    type = "invalid_request_error"
    code = "client_closed_request"

    def __init__(self) -> None:
        super().__init__("The client closed the connection.")


class ServerBug(ProxyError):
    """A bug of ours. The client is only told that the log has the cause."""

    def __init__(self) -> None:
        super().__init__("The proxy failed on this request. See its log for the cause.")


class BodyNotStored(ProxyError):
    """A large body does not fit into the folder for temporary files. It is no endpoint's fault."""

    status = 503
    code = "cannot_store_body"
    retry_after = 10

    def __init__(self) -> None:
        super().__init__("This proxy cannot store the body.")


class UpstreamFailed(ProxyError):
    """A server failed or sent something unreadable. A 502, so that clients try again."""

    status = 502
    code = "upstream_error"


class Unreachable(UpstreamFailed):
    """No connection to a server, or it broke before the response began."""


class AnswerLost(UpstreamFailed):
    """A server took a POST, and the connection broke without an answer.

    What the server did with it is unknown, so nothing sends it there again. It is not Unreachable:
    that would keep all other requests from a server which only closed an idle connection.
    """


class UpstreamRefused(UpstreamFailed):
    """A server refuses this proxy, not its client: the key has no right or no credit there.

    Not a 401, 402 or 403, which clients take for the fault of their own key. Only the owner of the
    proxy can mend it, so that the SDKs shall not repeat the request.
    """

    should_retry = False


class UpstreamUnfit(UpstreamFailed):
    """A server cannot answer as it is set up: it has not the model or the path, or is a web site.

    Only its owner can mend it, so that no client shall repeat the request: Codex would 30 times.
    """

    should_retry = False


class Unavailable(ProxyError):
    """Nothing can serve the request at the moment, e.g. no worker has the model.

    A 503 with `Retry-After`: workers come and go within minutes.
    """

    status = 503
    code = "no_workers"
    retry_after = 30  # seconds: openai-python obeys up to 120, opencode any


class NoEligibleWorker(Unavailable):
    """Workers are online, but the settings or the request leave all of them out.

    A 503, so that another endpoint or a fallback may answer; `x-should-retry: false`, because for
    the same request nothing changes within seconds.
    """

    should_retry = False


class InMaintenance(Unavailable):
    """The horde is in maintenance mode, which lasts longer than a lack of workers."""

    code = "maintenance"
    retry_after = 60


class AllEndpointsFailed(Unavailable):
    """Every endpoint that has the model failed; `reasons` has one for each endpoint's name."""

    code = "no_endpoint"
    retry_after = 5

    def __init__(
        self, model: str, reasons: Mapping[str, str], retry_after: int | None = None
    ) -> None:
        details = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
        super().__init__(
            f"No endpoint answers for `{model}` now. {details}.", retry_after=retry_after
        )


class AllEndpointsUnfit(AllEndpointsFailed):
    """Every endpoint failed with an error that the same request would meet again."""

    should_retry = False
    retry_after = 60  # opencode and others obey this alone: 5 s would be twelve calls a minute


class AllEndpointsClosed(AllEndpointsUnfit):
    """The same, where some may answer later: they are paused, or a horde's penalty has an end.

    No client waits that long, but a batch has a day.
    """

    jobs_wait = True


class ShuttingDown(Unavailable):
    """The proxy is stopping or restarting. Clients try again after the restart."""

    code = "shutting_down"
    retry_after = 5

    def __init__(self) -> None:
        super().__init__("The proxy is shutting down. Try again in a few seconds.")


class TimedOut(ProxyError):
    """The deadline passed before the answer was complete.

    A 504 says that the request was fine; `x-should-retry: false` keeps the OpenAI SDKs from
    queueing, and paying for, the same generation again.
    """

    status = 504
    code = "timeout"
    should_retry = False
