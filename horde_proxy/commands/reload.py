"""`horde-proxy reload`: new settings for a running proxy, and an error where it refuses them.

It is what `systemctl reload` runs. A signal alone could carry no environment and bring no answer.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import click

from horde_proxy.commands.console import echo, say
from horde_proxy.commands.options import config_option, load_settings
from horde_proxy.config.reload_mailbox import ReloadAnswer, ReloadMailbox, service_mailbox

_SECONDS = 30.0
"""How long to wait for the answer: a proxy looks at its file each second, and reads databases."""
_POLL_SECONDS = 0.1


@click.command()
@click.argument("pid", type=click.IntRange(1))
@config_option
def reload(pid: int, path: str | None) -> None:
    """Let the proxy with the process id PID read its settings again.

    The settings in this command's environment take the place of those that the proxy was started
    with. The command fails where they are wrong, or where the proxy refuses them.
    """
    mailbox = service_mailbox()
    if not mailbox.exists:
        load_settings(path)
    try:
        answer = reload_proxy(mailbox, lambda: os.kill(pid, signal.SIGHUP))
    except OSError as exc:
        raise click.ClickException(f"the proxy cannot be told: {exc.strerror}") from exc
    if not mailbox.exists:
        say(
            "The settings are valid, and the proxy reads them again. It keeps its environment: "
            "RUNTIME_DIRECTORY is not set, as RuntimeDirectory= of a unit does. Its log tells more."
        )
    elif answer is None:
        raise click.ClickException(f"the proxy has not answered for {_SECONDS:g} s: see its log")
    elif answer.problem is not None:
        raise click.ClickException(f"the settings were not reloaded: {answer.problem}")
    else:
        echo(f"The settings were reloaded{answer.notice}.")


def reload_proxy(
    mailbox: ReloadMailbox,
    tell: Callable[[], object],
    *,
    sleep: Callable[[float], object] = time.sleep,
) -> ReloadAnswer | None:
    """Hand over this environment, `tell` the proxy, and wait. None without an answer."""
    request_id = mailbox.put_request(os.environ)
    tell()
    for _ in range(int(_SECONDS / _POLL_SECONDS) if mailbox.exists else 0):
        if (answer := mailbox.answer(request_id)) is not None:
            return answer
        sleep(_POLL_SECONDS)
    return None
