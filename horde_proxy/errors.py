"""Every error that a client can meet, as OpenAI's envelope has it. No I/O, no Flask.

ProxyError                      status  code
|- InvalidRequest                  400  the caller's choice, e.g. invalid_type
|  |- ContextLengthExceeded        400  context_length_exceeded
|  |  '- UpstreamContextExceeded   400  context_length_exceeded
|  |- ContentPolicyViolation       400  content_policy_violation
|  '- ToolCallFailed               400  tool_call_failed
|- InvalidApiKey                   401  invalid_api_key
|- Refused                         403  forbidden
|  '- InsufficientKudos            403  insufficient_quota
|- ModelNotFound                   404  model_not_found
|- RateLimited                     429  rate_limit_exceeded
|  '- DailyLimitReached            429  daily_limit_reached
|- ClientGone                      499  client_closed_request
|- ServerBug                       500  null
|- UpstreamFailed                  502  upstream_error
|  '- Unreachable                   502  upstream_error
|- Unavailable                     503  no_workers
|  |- InMaintenance                503  maintenance
|  |- NoneLeft                     503  no_endpoint
|  '- ShuttingDown                 503  shutting_down
'- TimedOut                        504  timeout

Clients retry on words and digits that they find in a message, so the message of an error
that a retry cannot mend is freed of them (`calm`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

_ALARMING = re.compile(
    r"429|500|502|503|504|524|rate.?limit|too many requests|overloaded|internal.?(?:server.?)?error"
    r"|server.?error|try again|timed? ?out|timeout|connection (?:refused|reset|error|closed)"
    r"|unavailable|temporar\w+",
    re.IGNORECASE,
)


def calm(message: str) -> str:
    """The message without the digit runs and words that make clients retry in vain."""
    return _ALARMING.sub("…", message)


class ProxyError(Exception):
    """An error with all that its answer needs: status, type, code, param, retry_after (s)."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: str | None = None
    retry_after: int | None = None
    should_retry: ClassVar[bool | None] = None

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
        text = str(self)
        may_retry = self.status >= 500 or self.status in (408, 409, 429)
        return text if may_retry else calm(text)

    def envelope(self) -> dict[str, Any]:
        """OpenAI's error object: {"error": {"message", "type", "param", "code"}}."""
        return error_envelope(self.message, self.type, param=self.param, code=self.code)

    def headers(self) -> dict[str, str]:
        """Response headers that tell a client whether and when to come back."""
        headers = {}
        if self.retry_after is not None:
            headers["Retry-After"] = str(self.retry_after)
        if self.should_retry is not None:
            headers["x-should-retry"] = "true" if self.should_retry else "false"
        return headers


def error_envelope(
    message: str, kind: str, *, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """OpenAI's error object from its four parts."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


class InvalidRequest(ProxyError):
    status = 400
    type = "invalid_request_error"


class ContextLengthExceeded(InvalidRequest):
    """Clients know this text and code, and compact the chat instead of retrying."""

    code = "context_length_exceeded"

    def __init__(self, limit: int, needed: int) -> None:
        super().__init__(
            f"This model's maximum context length is {limit} tokens. However, your messages "
            f"resulted in {needed} tokens. Please reduce the length of the messages.",
            param="messages",
        )

    @property
    def message(self) -> str:
        return str(self)


class UpstreamContextExceeded(ContextLengthExceeded):
    """A server said so, in words of its own."""

    def __init__(self, message: str) -> None:
        InvalidRequest.__init__(self, message, param="messages")


class ContentPolicyViolation(InvalidRequest):
    code = "content_policy_violation"


class ToolCallFailed(InvalidRequest):
    """The model did not make the call that had to be made; asking again as it is helps little."""

    code = "tool_call_failed"


class InvalidApiKey(ProxyError):
    status = 401
    type = "invalid_request_error"
    code = "invalid_api_key"


class Refused(ProxyError):
    status = 403
    type = "invalid_request_error"
    code = "forbidden"


class InsufficientKudos(Refused):
    type = "insufficient_quota"
    code = "insufficient_quota"


class ModelNotFound(ProxyError):
    status = 404
    type = "invalid_request_error"
    code = "model_not_found"

    def __init__(self, model: str, near: Sequence[str] = ()) -> None:
        hint = " On offer are: " + ", ".join(f"`{name}`" for name in near) + "." if near else ""
        super().__init__(
            f"The model `{model}` does not exist or you do not have access to it.{hint}",
            param="model",
        )


class RateLimited(ProxyError):
    status = 429
    type = "requests"
    code = "rate_limit_exceeded"
    retry_after = 5


class DailyLimitReached(RateLimited):
    """Asking again helps only on another day."""

    code = "daily_limit_reached"
    should_retry = False


class ClientGone(ProxyError):
    """The client closed its connection: nobody reads this answer."""

    status = 499
    type = "invalid_request_error"
    code = "client_closed_request"

    def __init__(self) -> None:
        super().__init__("The client closed the connection.")


class ServerBug(ProxyError):
    """What a client sees of a bug: no more than that there is one."""

    def __init__(self) -> None:
        super().__init__("The proxy failed on this request. Its log tells where.")


class UpstreamFailed(ProxyError):
    status = 502
    code = "upstream_error"


class Unreachable(UpstreamFailed):
    """There is no connection, or it broke before an answer came."""


class Unavailable(ProxyError):
    status = 503
    code = "no_workers"
    retry_after = 30


class InMaintenance(Unavailable):
    code = "maintenance"
    retry_after = 60


class NoneLeft(Unavailable):
    """No endpoint answered; `reasons` are by the endpoints' names."""

    code = "no_endpoint"
    retry_after = 5

    def __init__(
        self, model: str, reasons: Mapping[str, str], retry_after: int | None = None
    ) -> None:
        told = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
        super().__init__(f"No endpoint answers for `{model}` now. {told}.", retry_after=retry_after)


class ShuttingDown(Unavailable):
    code = "shutting_down"
    retry_after = 5

    def __init__(self) -> None:
        super().__init__("The proxy is being stopped.")


class TimedOut(ProxyError):
    status = 504
    code = "timeout"
    should_retry = False
