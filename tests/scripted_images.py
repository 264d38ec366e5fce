"""A horde that makes pictures, as a Flask app whose attributes are its controls.

Bodies are those of the captures image_* (tests/data/image_captures).
"""

from __future__ import annotations

import base64
import itertools
from typing import Any

from flask import Flask, Response, jsonify, request

from horde_proxy.pictures import Raster
from tests.support import HORDE_URL

MODEL = "SDXL 1.0"
WORKER: dict[str, Any] = {
    "id": "worker-1",
    "name": "painter",
    "type": "image",
    "online": True,
    "models": [MODEL, "stable_diffusion", "Deliberate Inpainting"],
    "max_pixels": 2048 * 2048,
    "threads": 1,
    "nsfw": False,
    "img2img": True,
    "painting": True,
    "post-processing": True,
    "lora": True,
    "controlnet": True,
    "trusted": True,
    "bridge_agent": "AI Horde Worker reGen:13.0.0:x",
    "performance": "1.8 megapixelsteps per second",
}


class ScriptedImages:
    """What it was sent is in `submits`, and the keys in `keys`. Each further submit is refused as
    `refusals` say.

    `polls` are the checks until a request is done; of one that is cancelled before, so many results
    come as `finished` says. `images` are what its results have as `img`.
    """

    def __init__(self) -> None:
        self.submits: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.refusals: list[tuple[int, dict[str, Any]]] = []
        self.polls = 2
        self.workers: list[dict[str, Any]] = [WORKER]
        self.picture = Raster.plain(64, 64, (10, 20, 30)).encoded("webp")
        self.images: list[str] | None = None
        self.metadata: list[dict[str, str]] = []
        self.censored = False
        self.deleted: list[str] = []
        self.finished = 0
        self.status_calls = 0
        self.kudos = 10_000.0
        self._left: dict[str, int] = {}
        self._n: dict[str, int] = {}
        self._ids = itertools.count(1)
        self.app = Flask("images")
        for rule, view, method in (
            ("/api/v2/status/models", self._models, "GET"),
            ("/api/v2/workers", self._workers, "GET"),
            ("/api/v2/find_user", self._user, "GET"),
            ("/api/v2/generate/async", self._submit, "POST"),
            ("/api/v2/generate/check/<key>", self._check, "GET"),
            ("/api/v2/generate/status/<key>", self._status, "GET"),
            ("/api/v2/generate/status/<key>", self._delete, "DELETE"),
            ("/pictures/<name>", self._picture, "GET"),
        ):
            self.app.add_url_rule(rule, f"{method} {rule}", view, methods=[method])

    def _models(self) -> Response:
        is_image = request.args.get("type") == "image"
        workers = self.workers if is_image else []
        names = {name for worker in workers for name in worker["models"]}
        return jsonify(
            [
                {
                    "name": name,
                    "count": 1,
                    "performance": 1_800_000.0,
                    "queued": 0.0,
                    "jobs": 0.0,
                    "eta": 0,
                    "type": "image",
                }
                for name in sorted(names)
            ]
        )

    def _workers(self) -> Response:
        return jsonify(self.workers if request.args.get("type") == "image" else [])

    def _user(self) -> Response:
        return jsonify({"username": "alice#2", "kudos": self.kudos, "concurrency": 30})

    def _submit(self) -> tuple[Response, int]:
        self.submits.append(request.get_json())
        self.keys.append(request.headers.get("apikey", ""))
        if self.refusals:
            status, body = self.refusals.pop(0)
            return jsonify(body), status
        key = f"image-{next(self._ids)}"
        self._left[key], self._n[key] = self.polls, self.submits[-1]["params"]["n"]
        return jsonify({"id": key, "kudos": 6.0}), 202

    def _progress(self, key: str) -> dict[str, Any]:
        is_done = self._left[key] <= 0
        return {
            "finished": self._n[key] if is_done else 0,
            "processing": 0 if is_done else 1,
            "restarted": 0,
            "waiting": 0,
            "done": is_done,
            "faulted": False,
            "wait_time": 0,
            "queue_position": 0,
            "kudos": 17.0,
            "is_possible": True,
        }

    def _check(self, key: str) -> Response:
        self._left[key] -= 1
        return jsonify(self._progress(key))

    def _status(self, key: str) -> Response:
        self.status_calls += 1
        return self._results(key, self._n[key])

    def _results(self, key: str, n: int) -> Response:
        images = self.images or [f"{HORDE_URL}/pictures/{key}-{at}" for at in range(n)]
        generations = [
            {
                "img": image,
                "seed": str(42 + at),
                "id": f"{key}-{at}",
                "censored": self.censored,
                "gen_metadata": self.metadata,
                "worker_id": "worker-1",
                "worker_name": "painter",
                "model": self.submits[-1].get("models", [MODEL])[0],
                "state": "ok",
            }
            for at, image in enumerate(images)
        ]
        return jsonify({**self._progress(key), "generations": generations, "shared": False})

    def _delete(self, key: str) -> Response:
        self.deleted.append(key)
        return self._results(key, self.finished) if self.finished else self._nothing(key)

    def _nothing(self, key: str) -> Response:
        return jsonify({**self._progress(key), "generations": []})

    def _picture(self, name: str) -> Response:
        return Response(self.picture, mimetype="image/webp")


def as_raster(text: str) -> Raster:
    """The picture in a base64 field of a submit."""
    return Raster.read(base64.b64decode(text))
