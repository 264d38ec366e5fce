"""How `horde-proxy reload` hands a running proxy its new environment, and learns what became of it.

    systemctl reload -> ExecReload, with the EnvironmentFile as it is now
        reload:  request.json (id, variables) --SIGHUP--> proxy: reads settings with the variables
        reload:  waits for                    <---------- answer.json (id, problem, notice)

The files are in RUNTIME_DIRECTORY, which systemd makes for the service's user, in memory, and
removes when the service stops. They hold keys. Nothing else is known here of what settings mean.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from horde_proxy.config.sources import is_setting_variable

_REQUEST = "reload-request.json"
_ANSWER = "reload-answer.json"


@dataclass(frozen=True)
class ReloadAnswer:
    """What became of a reload: why the settings are not in use, or what needs a restart."""

    problem: str | None
    notice: str = ""


class ReloadMailbox:
    """The files of one service. Without a folder nothing is handed over."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    @property
    def exists(self) -> bool:
        """Whether an environment can be handed over."""
        return self._folder is not None

    def put_request(self, environ: Mapping[str, str]) -> str:
        """Hand over the variables that are settings; the id of the request. Raises OSError."""
        request_id = secrets.token_hex(8)
        variables = {name: value for name, value in environ.items() if is_setting_variable(name)}
        self._write(_REQUEST, {"id": request_id, "variables": variables})
        return request_id

    def environment(self, own: Mapping[str, str] = os.environ) -> dict[str, str]:
        """The environment of this process, with the settings that were handed over last."""
        request = self._read(_REQUEST)
        variables = request.get("variables") if request else None
        if not isinstance(variables, dict):
            return dict(own)
        # Settings that the new environment no longer has must be gone, too.
        others = {name: value for name, value in own.items() if not is_setting_variable(name)}
        return others | {str(name): str(value) for name, value in variables.items()}

    def put_answer(self, answer: ReloadAnswer) -> None:
        """Tell the one who handed over the last environment. Errors are nobody's loss."""
        request = self._read(_REQUEST)
        if request is not None:
            with suppress(OSError):
                content = {"problem": answer.problem, "notice": answer.notice}
                self._write(_ANSWER, {"id": request.get("id"), **content})

    def answer(self, request_id: str) -> ReloadAnswer | None:
        """The answer to a request; None while there is none."""
        content = self._read(_ANSWER)
        if content is None or content.get("id") != request_id:
            return None
        return ReloadAnswer(content["problem"], content["notice"])

    def _write(self, name: str, content: Mapping[str, Any]) -> None:
        if self._folder is None:
            return
        # A reader must never see half a file.
        unfinished = self._folder / f"{name}.{os.getpid()}"
        with suppress(FileNotFoundError):
            unfinished.unlink()
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(content, file)
        unfinished.replace(self._folder / name)

    def _read(self, name: str) -> dict[str, Any] | None:
        if self._folder is None:
            return None
        try:
            content = json.loads((self._folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return content if isinstance(content, dict) else None


def service_mailbox(environ: Mapping[str, str] = os.environ) -> ReloadMailbox:
    """The mailbox in the first of the folders that systemd made (systemd.exec(5))."""
    first = environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    return ReloadMailbox(Path(first) if first else None)
