"""The AI Horde's REST API v2, one method for each call that the proxy makes.

Every failure leaves here as a ProxyError, and no message contains a key. Refusals are told apart
by their code (`rc`), never by their wording, which changes. When to call is not known here.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import requests
from urllib3.exceptions import HTTPError, NewConnectionError

from horde_proxy.aihorde import penalties
from horde_proxy.aihorde.image_limits import UpfrontLimit, upfront_limit
from horde_proxy.aihorde.rest import (
    EXTENSIONS_HEADER,
    api_url,
    client_agent,
    extensions,
    json_object,
    retry_after,
)
from horde_proxy.errors import (
    ContentPolicyViolation,
    InMaintenance,
    InsufficientKudos,
    InvalidApiKey,
    InvalidRequest,
    ProxyError,
    RateLimited,
    Refused,
    Unreachable,
    UpstreamFailed,
)
from horde_proxy.json_reading import parse_json
from horde_proxy.response_body import LONGEST_BODY, UnreadableBody, with_body
from horde_proxy.telemetry import NO_TELEMETRY, Telemetry
from horde_proxy.upstreams.horde.jobs import JobKind
from horde_proxy.upstreams.horde.shared_keys import SharedKeyLimit
from horde_proxy.upstreams.horde.text_events import KEEP_ALIVE, BrokenStream, Events, read_events
from horde_proxy.upstreams.lean_adapter import prepared

LONGEST_RETRY_AFTER = 120
"""Seconds that a 429 may make us wait: twice the longest window of the horde's limits."""
_PIECE = 65_536
"""Bytes of a stream that are read at once, at most."""
_DEFAULT_PAUSE = 5
"""Seconds to wait after a 429 that names no time."""


# Ids are UUIDs at AI-Horde. They become a part of URLs, a header of our answer, and are logged.
_ID = re.compile(r"[\w.:-]{1,100}", re.ASCII)
_LONGEST_ANSWER = 8_000_000
"""Bytes: 20 generations of 16,000 tokens with their metadata are less than 2 MB."""


class RequestLost(UpstreamFailed):
    """The horde does not know the request: it has expired, or the horde lost its memory."""


class NotTaken(Unreachable):
    """The horde did not take the call, which may be sent again: no connection, or a 503."""


class ServerFault(UpstreamFailed):
    """The horde answered a call with a 500: a fault of its own, or a limit of a shared key."""


class TooFewKudos(InsufficientKudos):
    """The account lacks kudos. `limit`: what it could request without, where the horde says so."""

    def __init__(self, message: str, limit: UpfrontLimit | None = None) -> None:
        super().__init__(message)
        self.limit = limit


class ProxyBanned(Refused):
    """The horde refuses this proxy's address or agent, whichever key comes with a request."""


class AddressBanned(ProxyBanned):
    """The horde refuses this proxy's address for a time. `rc` is its code.

    `seconds`: how long it still lasts, None where the horde does not say.
    """

    def __init__(self, message: str, rc: str, seconds: float | None) -> None:
        super().__init__(message)
        self.rc, self.seconds = rc, seconds


class HordeClient:
    """Calls one horde through one session. `timeout` is (connect, read), in seconds.

    `extensions` is what the horde can do beyond AI-Horde's API, by its last answer. `is_private`:
    it is one of this software, and not AI-Horde's. `contact` says
    in our Client-Agent whom the horde's operators may ask about this proxy.
    """

    def __init__(
        self,
        url: str,
        session: requests.Session,
        *,
        contact: str,
        timeout: tuple[float, float],
        telemetry: Telemetry = NO_TELEMETRY,
    ) -> None:
        self.base = api_url(url)
        self._host = urlsplit(self.base).netloc.rpartition("@")[2]
        self._session = session
        self._session.headers["Client-Agent"] = client_agent(contact)
        self._timeout, self._telemetry = timeout, telemetry
        self.extensions: frozenset[str] = frozenset()
        self.is_private = False
        # Made once: what the session adds (our agent, the credentials in a URL, proxies) is the
        # same for each call.
        self._headers = session.prepare_request(requests.Request("GET", self.base)).headers
        self._environment: dict[str, Any] = {
            **session.merge_environment_settings(self.base, {}, True, None, None)
        }

    def submit(self, kind: JobKind, payload: Mapping[str, Any], api_key: str) -> str:
        """The id of a new request. Raises NotTaken where it may be sent again.

        After any other failure the request may exist: the horde has no idempotency, and it costs.
        """
        answer = self._object("POST", kind.submit_path, payload=payload, api_key=api_key)
        request_id = answer.get("id")
        if not isinstance(request_id, str) or not _ID.fullmatch(request_id):
            raise UpstreamFailed("The horde accepted the request without a usable id.")
        return request_id

    def check(self, kind: JobKind, request_id: str) -> dict[str, Any]:
        """How far a request is. At most 60 a minute for each text request."""
        return self._object("GET", kind.check_path, request_id=request_id)

    def status(self, kind: JobKind, request_id: str) -> dict[str, Any]:
        """The status with the results. At most 10 a minute for each image request."""
        return self._object("GET", kind.status_path, request_id=request_id)

    def cancel(self, kind: JobKind, request_id: str) -> dict[str, Any]:
        """Cancel a request. Returns its status as it was before."""
        return self._object("DELETE", kind.status_path, request_id=request_id)

    def stream(self, kind: JobKind, request_id: str, sent: int) -> Events:
        """A request's events, after so many characters of its text. Raises BrokenStream.

        Closing it ends the call.
        """
        params = {"offset": str(sent), "keep_alive": str(KEEP_ALIVE)}
        try:
            response = self._send("GET", kind.stream_path, request_id=request_id, params=params)
        except requests.RequestException as exc:
            raise BrokenStream("The horde's stream could not be opened.") from exc
        with closing(response):
            self._telemetry.called(f"GET {kind.stream_path}", response.status_code)
            if response.status_code != 200:
                raise BrokenStream("The horde refuses to stream.")
            yield from read_events(_pieces(response))

    def _note_extensions(self, response: requests.Response) -> None:
        value = response.headers.get(EXTENSIONS_HEADER)
        self.is_private = value is not None
        if value is not None or self.extensions:
            self.extensions = extensions(value or "")

    def models(self, kind: str = "text") -> list[dict[str, Any]]:
        """GET status/models for text or image: known and custom ones."""
        return self._list("status/models", {"type": kind, "model_state": "all"})

    def workers(self, kind: str = "text") -> list[dict[str, Any]]:
        """GET workers for text, image or interrogation."""
        return self._list("workers", {"type": kind})

    def model_stats(self, kind: str = "text") -> dict[str, Any]:
        """{"day", "month", "total"}, uses by model, of GET stats/{text,img}/models."""
        path = f"stats/{'img' if kind == 'image' else kind}/models"
        params = {"model_state": "all"}
        return self._object("GET", path, most=LONGEST_BODY, params=params)

    def find_user(self, api_key: str) -> dict[str, Any]:
        """GET find_user: the account of a key. Raises InvalidApiKey."""
        return self._object("GET", "find_user", api_key=api_key)

    def shared_key(self, api_key: str) -> dict[str, Any]:
        """GET sharedkeys/{key}: the limits of a shared key. Raises InvalidApiKey."""
        return self._object("GET", "sharedkeys", request_id=api_key)

    def make_shared_key(self, api_key: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """PUT sharedkeys: a new shared key of an account (capture sharedkey_put_defaults)."""
        return self._object("PUT", "sharedkeys", api_key=api_key, payload=body)

    def change_shared_key(
        self, api_key: str, shared_key: str, body: Mapping[str, Any]
    ) -> dict[str, Any]:
        """PATCH sharedkeys/{key} (capture sharedkey_patch)."""
        return self._object(
            "PATCH", "sharedkeys", request_id=shared_key, api_key=api_key, payload=body
        )

    def delete_shared_key(self, api_key: str, shared_key: str) -> dict[str, Any]:
        """DELETE sharedkeys/{key} (capture sharedkey_delete)."""
        return self._object("DELETE", "sharedkeys", request_id=shared_key, api_key=api_key)

    def performance(self) -> dict[str, Any]:
        """GET status/performance: the load of the whole horde."""
        return self._object("GET", "status/performance")

    def _list(self, path: str, params: dict[str, str]) -> list[dict[str, Any]]:
        answer = self._call("GET", path, most=LONGEST_BODY, params=params)
        if not isinstance(answer, list):
            raise UpstreamFailed("The horde answered with something that is not a list.")
        return [entry for entry in answer if isinstance(entry, dict)]

    def _object(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        answer = self._call(method, path, **options)
        if not isinstance(answer, dict):
            raise UpstreamFailed("The horde answered with something that is not an object.")
        return answer

    def _call(self, method: str, path: str, *, most: int = _LONGEST_ANSWER, **options: Any) -> Any:
        """The JSON of an answer. `path` has no id, so that calls can be counted by it.

        `most` bytes are read. All exceptions of requests become ours here.
        """
        status: int | None = None
        try:
            response = self._send(method, path, **options)
            status = response.status_code
            self._note_extensions(response)
            with_body(response, most)
            if status < 300:
                return parse_json(response.content)
        except UnreadableBody as exc:
            raise UpstreamFailed(f"The horde sent {exc}.") from exc
        except requests.RequestException as exc:
            raise _unreachable(exc, self._host) from exc
        # A JSONDecodeError, no UTF-8, an integer of more than 4300 digits, too many values or
        # brackets.
        except (ValueError, RecursionError) as exc:
            raise UpstreamFailed("The horde answered with something that is not JSON.") from exc
        finally:
            self._telemetry.called(f"{method} {path}", status)
        raise horde_error(response, options.get("api_key"))

    def _send(
        self,
        method: str,
        path: str,
        *,
        request_id: str | None = None,
        api_key: str | None = None,
        params: Mapping[str, str] | None = None,
        payload: Mapping[str, Any] | None = None,
    ) -> requests.Response:
        """The response, whose body is still to be read."""
        url, headers, body = f"{self.base}/{path}", self._headers, None
        if request_id is not None:
            url += f"/{quote(request_id, safe='')}"
        if params:
            url += f"?{urlencode(params)}"
        if api_key or payload is not None:
            headers = headers.copy()
        if api_key:
            headers["apikey"] = api_key
        if payload is not None:
            body = json.dumps(payload, allow_nan=False).encode()
            headers.update({"Content-Type": "application/json", "Content-Length": str(len(body))})
        request = prepared(method, url, headers, body)
        # Not session.send: hooks, cookies and redirects are not used, and cost a fifth of a poll.
        adapter = self._session.get_adapter(url)
        return adapter.send(request, timeout=self._timeout, **self._environment)


def _pieces(response: requests.Response) -> Iterator[bytes]:
    """The body as it comes. Raises BrokenStream."""
    try:
        while piece := response.raw.read1(_PIECE, decode_content=False):
            yield piece
    except (HTTPError, OSError) as exc:
        raise BrokenStream("The horde's stream broke off.") from exc


def _unreachable(error: requests.RequestException, host: str) -> Unreachable:
    """Our error for a call without an answer: NotTaken where no connection was made for it."""
    if isinstance(error, requests.ConnectTimeout):
        return NotTaken(f"The horde at {host} did not answer in time.")
    if isinstance(error, requests.Timeout):
        return Unreachable(f"The horde at {host} did not answer in time.")
    # requests wraps urllib3's MaxRetryError, whose reason is what happened: here a refused
    # connection, no route, or an unknown name.
    reason = getattr(error.args[0], "reason", None) if error.args else None
    kind = NotTaken if isinstance(reason, NewConnectionError) else Unreachable
    return kind(f"The horde at {host} cannot be reached.")


_BANNED = {
    penalties.TIMEOUT: "The horde has put this proxy's address in timeout.",
    **dict.fromkeys(penalties.UNSAFE, "The horde holds this proxy's address for a VPN's."),
    "BannedClientAgent": "The horde has banned this client.",
}
_TOO_FEW_KUDOS = "The API key does not have the kudos that this request needs."
_SHARED_KEYS = {
    "SharedKeyEmpty": "The shared key has no kudos left.",
    "SharedKeyExpired": "The shared key has expired.",
    "SharedKeyInsufficientKudos": "The shared key has too few kudos left for this request.",
    "SharedKeyAssignedStyles": "The shared key pays for the styles of its owner only.",
}
_FORBIDDEN = {
    "DeletedUser": "The horde account of this key was deleted.",
    "BlockedUser": "The horde account of this key is blocked.",
}
# By code: our message, and the client's parameter that is to blame.
_BAD_REQUESTS: dict[str, tuple[str, str | None]] = {
    "MissingPrompt": ("The messages hold no text.", "messages"),
    "NulByteInPayload": ("The messages hold a NUL byte, which the horde refuses.", "messages"),
    "MissingFullSamplerOrder": ("'sampler_order' must name all samplers.", "sampler_order"),
    "TooManyStopSequences": ("Too many stop strings.", "stop"),
    "ExcessiveStopSequence": ("The stop strings are too long.", "stop"),
    "WorkerNotFound": ("The horde knows no worker of that id.", "horde.workers"),
}


def horde_error(response: requests.Response, api_key: str | None = None) -> ProxyError:
    """The ProxyError for a response with a status from 300. Codes are in aihorde/refusals.py.

    The codes come first: MaintenanceMode is a 400, RequestNotFound a 404 like any wrong path.
    """
    status, body = response.status_code, json_object(response.content)
    code = str(body.get("rc", ""))
    if code == "MaintenanceMode":
        return InMaintenance("The horde is in maintenance.")
    if code == "RequestNotFound":
        return RequestLost("The horde has lost the request.")
    # "Unable to handle the request" (RFC 9110, 15.6.4): what stands before the horde has no server.
    if status == 503 and not code:
        return NotTaken("The horde takes no requests now.")
    if status == 401 or code in ("InvalidAPIKey", "UserNotFound"):
        return InvalidApiKey("The horde does not know this API key.")
    # Of a private horde: too many tokens, or no request of the key left.
    if code == "SharedKeyLimitExceeded":
        return SharedKeyLimit("The request is beyond a limit of the shared key.")
    if code == "KudosUpfront" or code.startswith("SharedKey"):
        limit = upfront_limit(str(body.get("message", "")))
        return TooFewKudos(_SHARED_KEYS.get(code, _TOO_FEW_KUDOS), limit)
    if code == penalties.CORRUPT_PROMPT:
        return ContentPolicyViolation("The horde refuses this prompt.", param="messages")
    if status == 429:
        message = "The horde allows no more requests now."
        return RateLimited(message, retry_after=_pause(response))
    if code in _BAD_REQUESTS:
        message, param = _BAD_REQUESTS[code]
        return InvalidRequest(message, param=param, code="invalid_value")
    if code == penalties.TIMEOUT or code in penalties.UNSAFE:
        message = str(body.get("message", ""))
        seconds = penalties.timeout_seconds(message) if code == penalties.TIMEOUT else None
        return AddressBanned(_BANNED[code], code, seconds)
    if code in _BANNED:
        return ProxyBanned(_BANNED[code])
    if status == 403:
        return Refused(_FORBIDDEN.get(code, f"The horde refuses this request{_in_brackets(code)}."))
    if status in (400, 404, 405, 413, 422) and body:
        return _bad_request(body, code, api_key)
    kind = ServerFault if status == 500 else UpstreamFailed
    return kind("The horde failed on this request.")


def _pause(response: requests.Response) -> int:
    """Seconds to wait after a 429: as the horde says, at most 120; 5 where it does not say."""
    seconds = retry_after(response.headers.get("Retry-After", ""), time.time())
    return min(seconds or _DEFAULT_PAUSE, LONGEST_RETRY_AFTER)


def _bad_request(body: Mapping[str, Any], code: str, api_key: str | None) -> InvalidRequest:
    """The error of a body that breaks the horde's schema, whose `errors` are by field."""
    errors = body.get("errors")
    if isinstance(errors, dict) and errors:
        name = str(next(iter(errors)))
        return InvalidRequest(
            f"The horde does not take this value of '{name}'.", param=name, code="invalid_value"
        )
    message = str(body.get("message", ""))
    if api_key:
        message = message.replace(api_key, "***")
    return InvalidRequest(f"The horde refuses this request{_in_brackets(code)}: {message}")


def _in_brackets(code: str) -> str:
    return f" ({code})" if code else ""
