"""The routes of images: read, call, return. Pictures go in and out as files."""

from __future__ import annotations

from flask import Response, g, request

from horde_proxy.private_horde.errors import HordeError
from horde_proxy.private_horde.horde import PrivateHorde
from horde_proxy.private_horde.images import MOST_UPLOAD_BYTES
from horde_proxy.private_horde.picture_routes import Answer, base, cancelled, popped, shown
from horde_proxy.private_horde.routing import HordeRoute, body, caller_address, checked_key


def _submit(horde: PrivateHorde) -> Answer:
    key = checked_key(horde, shared=True)
    result = horde.images.submit(key, body(), caller_address(), base())
    return result, 202 if "id" in result else 200


def _check(horde: PrivateHorde, request_id: str) -> Answer:
    g.is_poll = True
    return horde.images.check(request_id), 200


def _status(horde: PrivateHorde, request_id: str) -> Answer:
    return shown(horde.images, request_id)


def _cancel(horde: PrivateHorde, request_id: str) -> Answer:
    return cancelled(horde.images, request_id)


def _pop(horde: PrivateHorde) -> Answer:
    return popped(horde, horde.images, "id")


def _submit_generation(horde: PrivateHorde) -> Answer:
    return horde.images.submit_generation(checked_key(horde), body()), 200


def _upload(horde: PrivateHorde, picture_id: str) -> Answer:
    if (request.content_length or 0) > MOST_UPLOAD_BYTES:
        raise HordeError(413, f"A picture has at most {MOST_UPLOAD_BYTES // 1_000_000} MB.")
    # One byte more shows that there are too many, also where no length was sent.
    horde.images.upload(
        _without_type(picture_id), *_signed(), lambda: request.stream.read(MOST_UPLOAD_BYTES + 1)
    )
    return Response(status=200), 200


def _picture(horde: PrivateHorde, picture_id: str) -> Answer:
    kind, data = horde.images.picture(_without_type(picture_id), *_signed())
    response = Response(data, content_type=f"image/{kind}")
    response.headers["Cache-Control"] = "private, max-age=1800"
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response, 200


def _without_type(name: str) -> str:
    """The id of the picture in the path of a link, "00000000-0000-4000-8000-000000000001.webp"."""
    return name.partition(".")[0]


def _signed() -> tuple[str, str]:
    return request.args.get("expires", ""), request.args.get("signature", "")


IMAGE_ROUTES = (
    HordeRoute("/generate/async", {"POST": _submit}, "async"),
    HordeRoute("/generate/check/<request_id>", {"GET": _check}, "check"),
    HordeRoute(
        "/generate/status/<request_id>", {"GET": _status, "DELETE": _cancel}, "image_status"
    ),
    HordeRoute("/generate/pop", {"POST": _pop}, "worker_queue"),
    HordeRoute("/generate/submit", {"POST": _submit_generation}, "worker_queue"),
    HordeRoute("/pictures/<picture_id>", {"GET": _picture, "PUT": _upload}, "worker_queue"),
)
"""The routes of images."""
