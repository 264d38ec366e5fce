"""The routes of the private horde: AI-Horde's API below /api/v2, and what this horde adds to it.

The rights are those of the horde's own accounts, with the header `apikey`.
"""

from __future__ import annotations

from horde_proxy.api.openapi.operation import Api, Rights, RouteEntry
from horde_proxy.api.openapi.shapes import Shape

_TEXT = {"prompt": "Once upon a time", "params": {"max_length": 80}, "models": ["auto"]}


def _of(
    call: str,
    summary: str,
    answer: Shape | None = None,
    body: Shape | None = None,
    rights: Rights = "member",
    *,
    status: int = 200,
    media: str | None = None,
    others: dict[int, Shape] | None = None,
    events: Shape | None = None,
    query: tuple[str, ...] = (),
    example: object = None,
) -> RouteEntry:
    """An operation below /api/v2."""
    method, _, path = call.partition(" ")
    return RouteEntry(
        f"{method} /api/v2{path}",
        summary,
        answer,
        body,
        rights=rights,
        status=status,
        media=media,
        others=others or {},
        events=events,
        query=query,
        example=example,
    )


_REQUESTS = (
    _of("POST /generate/text/async", "Request a text", "HordeSubmitted", "object", status=202,
        others={200: "HordeSubmitted"}, example=_TEXT),
    _of("GET /generate/text/status/{request_id}", "The state and the texts of a request",
        "HordeTextStatus", rights="anybody"),
    _of("DELETE /generate/text/status/{request_id}", "Cancel a request", "HordeTextStatus",
        rights="anybody"),
    _of("GET /generate/text/stream/{request_id}", "A text as it grows (extension)",
        events="object", rights="anybody"),
    _of("POST /generate/text/pop", "Give a worker a job", "HordeJob", "object"),
    _of("POST /generate/text/progress", "Take a text as far as a worker has it (extension)",
        {"cancelled": "boolean", "offset": "integer"}, "object"),
    _of("POST /generate/text/submit", "Take a worker's text", "HordeReward", "object"),
    _of("POST /generate/async", "Request pictures", "HordeSubmitted", "object", status=202,
        others={200: "HordeSubmitted"}),
    _of("GET /generate/check/{request_id}", "The state of a request for pictures",
        "HordeImageCheck", rights="anybody"),
    _of("GET /generate/status/{request_id}", "The state and the pictures of a request",
        "HordeImageStatus", rights="anybody"),
    _of("DELETE /generate/status/{request_id}", "Cancel a request for pictures",
        "HordeImageStatus", rights="anybody"),
    _of("POST /generate/pop", "Give an image worker a job", "HordeJob", "object"),
    _of("POST /generate/submit", "Take a worker's picture", "HordeReward", "object"),
    _of("GET /pictures/{picture_id}", "A picture, by its signed link", media="image/*",
        rights="anybody"),
    _of("PUT /pictures/{picture_id}", "Upload a picture, by its signed link", media="text/html",
        rights="anybody"),
    _of("POST /interrogate/async", "Request descriptions or changes of a picture",
        {"id": "string"}, "object", status=202),
    _of("GET /interrogate/status/{request_id}", "The state and the results of an alchemy request",
        "HordeFormStatus", rights="anybody"),
    _of("DELETE /interrogate/status/{request_id}", "Cancel an alchemy request",
        "HordeFormStatus", rights="anybody"),
    _of("POST /interrogate/pop", "Give an alchemist forms", "HordeForms", "object"),
    _of("POST /interrogate/submit", "Take an alchemist's result", "HordeReward", "object"),
)  # fmt: skip

_MODELS_QUERY = ("type:string", "model_state:string", "min_count:integer", "max_count:integer")
_STATUS = (
    _of("GET /status/models", "The models with their workers and queues", ["HordeModel"],
        rights="anybody", query=_MODELS_QUERY),
    _of("GET /status/models/{name}", "A model, in a list", ["HordeModel"], rights="anybody"),
    _of("GET /status/performance", "Queues and workers", "HordePerformance", rights="anybody"),
    _of("GET /status/heartbeat", "The horde answers", "HordeDone", rights="anybody"),
    _of("GET /status/capabilities", "The extensions of this horde", {"extensions": ["string"]},
        rights="anybody"),
    _of("GET /status/modes", "The horde's modes", "HordeModes", rights="anybody"),
    _of("PUT /status/modes", "Change the modes", "HordeModes", "object", "moderator"),
    _of("GET /status/news", "The news", ["HordeNews"], rights="anybody"),
    _of("POST /status/news", "Add a piece of news", "HordeNews", "object", "moderator", status=201),
    _of("DELETE /status/news/{item_id}", "Delete a piece of news", "HordeDone",
        rights="moderator"),
    _of("GET /stats/text/models", "Texts by model", "HordeCounts", rights="anybody"),
    _of("GET /stats/text/totals", "Texts by span", "HordeTotals", rights="anybody"),
    _of("GET /stats/img/models", "Pictures by model", "HordeCounts", rights="anybody"),
    _of("GET /stats/img/totals", "Pictures by span", "HordeTotals", rights="anybody"),
    *(
        _of(f"GET /documents/{name}", f"The horde's {name}", "HordeDocument", rights="anybody")
        for name in ("terms", "privacy", "sponsors")
    ),
    *(
        _of(f"GET {path}", "None: this horde has no styles", ["object"], rights="anybody")
        for path in ("/styles/text", "/styles/image", "/collections")
    ),
    *(
        _of(f"GET {path}", "Not found: this horde has no styles", status=404, rights="anybody",
            others={404: "HordeError"})
        for path in (
            "/styles/text/{name}", "/styles/image/{name}", "/styles/text_by_name/{name}",
            "/styles/image_by_name/{name}", "/collections/{name}", "/collection_by_name/{name}",
        )
    ),
)  # fmt: skip

_PEOPLE = (
    _of("POST /register", "Make an account", {"id": "integer", "username": "string",
        "api_key": "string"}, "object", "anybody", status=201),
    _of("GET /find_user", "The account of the key", "HordeUser"),
    _of("GET /users", "The accounts", ["HordeUser"], rights="anybody"),
    _of("GET /users/{user_id}", "An account", "HordeUser", rights="anybody"),
    _of("PUT /users/{user_id}", "Change an account", "object", "object"),
    _of("DELETE /users/{user_id}", "Delete an account", "HordeDone"),
    _of("GET /users/{user_id}/keys", "The keys of an account",
        [{"fingerprint": "string", "name": "string|null", "created": "number"}]),
    _of("POST /users/{user_id}/keys", "Make a key", {"api_key": "string", "name": "string"},
        "object", status=201),
    _of("DELETE /users/{user_id}/keys/{fingerprint}", "Delete a key", "HordeDone"),
    _of("POST /kudos/transfer", "Give kudos to somebody", {"transferred": "number"}, "object"),
    _of("POST /kudos/award", "Award kudos", {"awarded": "number"}, "object", "moderator"),
    _of("PUT /sharedkeys", "Make a shared key", "HordeSharedKey", "object"),
    _of("GET /sharedkeys/{key_id}", "A shared key", "HordeSharedKey", rights="anybody"),
    _of("PATCH /sharedkeys/{key_id}", "Change a shared key", "HordeSharedKey", "object"),
    _of("DELETE /sharedkeys/{key_id}", "Delete a shared key", "HordeDone"),
    _of("GET /invitations", "The invitations", ["HordeInvitation"], rights="moderator"),
    _of("POST /invitations", "Invite", "HordeInvitation", "object", "moderator", status=201),
    _of("DELETE /invitations/{invitation_id}", "Withdraw an invitation", "HordeDone",
        rights="moderator"),
)  # fmt: skip

_FLEET = (
    _of("GET /workers", "The workers", ["HordeWorker"], rights="anybody",
        query=("type:string", "name:string")),
    _of("GET /workers/{worker_id}", "A worker", "HordeWorker", rights="anybody"),
    _of("GET /workers/name/{name}", "A worker, by its name", "HordeWorker", rights="anybody"),
    _of("PUT /workers/{worker_id}", "Change a worker", "object", "object"),
    _of("DELETE /workers/{worker_id}", "Delete a worker", "HordeDeleted"),
    _of("GET /workers/messages", "Messages to workers", ["HordeMessage"]),
    _of("POST /workers/messages", "Write to workers", "HordeMessage", "object", "moderator"),
    _of("GET /workers/messages/{message_id}", "A message", "HordeMessage", rights="anybody"),
    _of("DELETE /workers/messages/{message_id}", "Delete a message", "HordeDone",
        rights="moderator"),
    _of("GET /teams", "The teams", ["HordeTeam"], rights="anybody"),
    _of("POST /teams", "Make a team", {"id": "string", "name": "string"}, "object"),
    _of("GET /teams/{team_id}", "A team", "HordeTeam", rights="anybody"),
    _of("PATCH /teams/{team_id}", "Change a team", "object", "object"),
    _of("DELETE /teams/{team_id}", "Delete a team", "HordeDeleted"),
)  # fmt: skip

_ADDRESS = "/operations/ipaddr"
_MODERATION = (
    _of("GET /filters", "The filters of prompts", ["HordeFilter"], rights="moderator"),
    _of("POST /filters", "Try a prompt on the filters",
        {"suspicion": "string", "matches": ["string"]}, "object", "moderator"),
    _of("PUT /filters", "Add a filter", "HordeFilter", "object", "moderator", status=201,
        others={200: "HordeFilter"}),
    _of("GET /filters/regex", "The filters as regular expressions",
        [{"filter_type": "integer", "regex?": "string"}], rights="moderator"),
    _of("GET /filters/{filter_id}", "A filter", "HordeFilter", rights="moderator"),
    _of("PATCH /filters/{filter_id}", "Change a filter", "HordeFilter", "object", "moderator"),
    _of("DELETE /filters/{filter_id}", "Delete a filter", "HordeDone", rights="moderator"),
    _of(f"GET {_ADDRESS}", "Addresses in time-out", ["HordeTimeout"], rights="moderator"),
    _of(f"POST {_ADDRESS}", "Put an address in time-out", "HordeDone", "object", "moderator"),
    _of(f"DELETE {_ADDRESS}", "End a time-out", "HordeDone", "object", "moderator"),
    _of(f"GET {_ADDRESS}/{{address}}", "The time-outs of an address", ["HordeTimeout"],
        rights="moderator"),
    _of("PUT /operations/block_worker_ipaddr/{worker_id}", "Block a worker's address",
        "HordeDone", "object", "moderator"),
    _of("DELETE /operations/block_worker_ipaddr/{worker_id}", "Unblock a worker's address",
        "HordeDone", rights="moderator"),
)  # fmt: skip

HORDE = Api(
    "Private horde",
    "AI-Horde's API v2, while private_horde.enabled. The header X-Fields leaves out fields.",
    "HordeError",
    (*_REQUESTS, *_STATUS, *_PEOPLE, *_FLEET, *_MODERATION),
    at_root=True,
)
