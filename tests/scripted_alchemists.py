"""The alchemy of a horde, as a Flask app whose attributes are its controls.

Bodies are those of the captures interrogate_* (tests/data/alchemy_captures).
"""

from __future__ import annotations

import base64
import itertools
from typing import Any

from flask import Flask, Response, jsonify, request

from horde_proxy.pictures import Raster
from horde_proxy.upstreams.in_process import WSGIAdapter
from tests.support import HORDE_URL, World

TAGS = {"tags": [{"text": "square", "confidence": 0.9}, {"text": "blue", "confidence": 0.4}]}
RESULTS: dict[str, Any] = {"caption": "a blue square", "interrogation": TAGS}


def alchemist(*forms: str, **fields: Any) -> dict[str, Any]:
    """An entry of GET workers?type=interrogation."""
    return {
        "id": "18f918da-9288-4a30-95a1-9ca71d688d34",
        "name": "alch-worker",
        "type": "interrogation",
        "online": True,
        "maintenance_mode": False,
        "trusted": True,
        "forms": list(forms),
        **fields,
    }


class ScriptedAlchemists:
    """What it was sent is in `submits`. `results` are those of the forms; others never come.

    A form is done after `polls` polls. `faults` requests end without any result. `refusals` are
    what the next submits are answered with.
    """

    def __init__(self, world: World) -> None:
        self.workers = [alchemist("caption", "interrogation", "nsfw")]
        self.results: dict[str, Any] = dict(RESULTS)
        self.submits: list[dict[str, Any]] = []
        self.deleted: list[str] = []
        self.refusals: list[tuple[int, dict[str, Any]]] = []
        self.faults, self.polls = 0, 2
        self.most_at_once = 0
        self._open: dict[str, int] = {}
        self._forms: dict[str, list[str]] = {}
        self._ids = itertools.count(1)
        app = Flask("alchemists")
        path = "/api/v2/interrogate/status/<key>"
        app.add_url_rule("/api/v2/interrogate/async", "submit", self._submit, methods=["POST"])
        app.add_url_rule(path, "status", self._status, methods=["GET"])
        app.add_url_rule(path, "delete", self._delete, methods=["DELETE"])
        app.add_url_rule("/api/v2/workers", "workers", lambda: jsonify(self.workers))
        for beginning in ("interrogate", "workers?type=interrogation"):
            world.session.mount(f"{HORDE_URL}/api/v2/{beginning}", WSGIAdapter(app))

    def pictures(self) -> list[Raster]:
        """The pictures that were submitted."""
        return [Raster.read(base64.b64decode(body["source_image"])) for body in self.submits]

    def forms(self) -> list[list[str]]:
        """The forms of each submit."""
        return [[form["name"] for form in body["forms"]] for body in self.submits]

    def _submit(self) -> tuple[Response, int]:
        if self.refusals:
            status, refusal = self.refusals.pop(0)
            return jsonify(refusal), status
        self.submits.append(request.get_json())
        key = f"alchemy-{next(self._ids)}"
        self._open[key], self._forms[key] = self.polls, self.forms()[-1]
        self.most_at_once = max(self.most_at_once, len(self._open))
        return jsonify({"id": key}), 202

    def _status(self, key: str) -> Response:
        self._open[key] -= 1
        if self._open[key] > 0:
            return jsonify(self._answer(key, "waiting"))
        if self.faults:
            self.faults -= 1
            self._open.pop(key)
            return jsonify(self._answer(key, "faulted", is_faulted=True))
        answer = self._answer(key, "processing")
        if all(form["state"] == "done" for form in answer["forms"]):
            self._open.pop(key)
            answer["state"] = "done"
        return jsonify(answer)

    def _delete(self, key: str) -> Response:
        self.deleted.append(key)
        self._open.pop(key, None)
        return jsonify(self._answer(key, "cancelled"))

    def _answer(self, key: str, state: str, *, is_faulted: bool = False) -> dict[str, Any]:
        is_early = state == "waiting" or is_faulted
        forms = [
            {"form": form, "state": "done", "result": {form: self.results[form]}}
            if form in self.results and not is_early
            else {"form": form, "state": state}
            for form in self._forms[key]
        ]
        return {"state": state, "forms": forms}
