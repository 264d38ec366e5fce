"""What the buttons of the private horde's pages do: one line a button, each a method of the horde.

Reads the form, calls, and says what to show then. The horde decides who may do what.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from horde_proxy.key_digest import key_fingerprint
from horde_proxy.private_horde import PrivateHorde
from horde_proxy.private_horde.errors import HordeError
from horde_proxy.web import horde_forms as forms
from horde_proxy.web import sent_forms
from horde_proxy.web.horde_access import HordeVisitor
from horde_proxy.web.sent_forms import Form


@dataclass(frozen=True)
class Secret:
    """Something that is shown once: a new `api_key`, `shared_key` or `invitation`."""

    kind: str
    value: str


Outcome = Secret | dict[str, Any] | None
"""What an action ends with: something shown once, facts for its page, or nothing but the change."""
Act = Callable[[PrivateHorde, HordeVisitor, Form], Outcome]


@dataclass(frozen=True)
class Action:
    """A button: the page that it is on, what it does, and the sentence that is shown then."""

    page: str
    act: Act
    done: str = ""


def _make_key(horde: PrivateHorde, visitor: HordeVisitor, form: Form) -> Secret:
    body = sent_forms.filled(
        name=sent_forms.text(form, "name"), replace=sent_forms.text(form, "replace")
    )
    made = horde.people.make_key(visitor.key, str(visitor.id), body)
    return Secret("api_key", made["api_key"])


def _delete_key(horde: PrivateHorde, visitor: HordeVisitor, form: Form) -> None:
    horde.people.delete_key(visitor.key, str(visitor.id), sent_forms.text(form, "fingerprint"))


def _make_shared_key(horde: PrivateHorde, visitor: HordeVisitor, form: Form) -> Secret:
    made = horde.people.make_shared_key(visitor.key, forms.shared_key(form))
    return Secret("shared_key", made["id"])


def _change_shared_key(horde: PrivateHorde, visitor: HordeVisitor, form: Form) -> None:
    key_id = _shared_key(horde, visitor, form)
    horde.people.change_shared_key(visitor.key, key_id, forms.shared_key(form))


def _delete_shared_key(horde: PrivateHorde, visitor: HordeVisitor, form: Form) -> None:
    horde.people.delete_shared_key(visitor.key, _shared_key(horde, visitor, form))


def _shared_key(horde: PrivateHorde, visitor: HordeVisitor, form: Form) -> str:
    """The visitor's shared key that a form names by its fingerprint."""
    account = horde.people.user(visitor.key, str(visitor.id))
    for key_id in account.get("sharedkey_ids", []):
        if key_fingerprint(key_id) == form.get("fingerprint"):
            return str(key_id)
    raise HordeError(404, "You have no such shared key. It may have been deleted meanwhile.")


def _send_kudos(horde: PrivateHorde, visitor: HordeVisitor, form: Form) -> None:
    body = {
        "username": sent_forms.text(form, "username"),
        "amount": sent_forms.number(form, "amount"),
    }
    # A form that is sent twice, by two clicks or a reload, sends the kudos once.
    horde.people.transfer(visitor.key, body, sent_forms.text(form, "once"))


def _change_account(horde: PrivateHorde, visitor: HordeVisitor, form: Form) -> None:
    body = {
        "contact": sent_forms.text(form, "contact"),
        "public_workers": "public_workers" in form,
        **sent_forms.filled(username=sent_forms.text(form, "username")),
    }
    horde.people.change(visitor.key, str(visitor.id), body)


def _delete_account(horde: PrivateHorde, visitor: HordeVisitor, form: Form) -> None:
    horde.people.delete(visitor.key, str(visitor.id))


def _cancel(horde: PrivateHorde, visitor: HordeVisitor, form: Form) -> None:
    horde.cancel(sent_forms.text(form, "id"))


def _rest_worker(horde: PrivateHorde, visitor: HordeVisitor, form: Form) -> None:
    body = {"maintenance": "on" in form, "maintenance_msg": sent_forms.text(form, "message")}
    horde.fleet.change_worker(visitor.key, sent_forms.text(form, "id"), body)


def _change_worker(horde: PrivateHorde, visitor: HordeVisitor, form: Form) -> None:
    body = {
        "info": sent_forms.text(form, "info"),
        **sent_forms.filled(name=sent_forms.text(form, "name")),
    }
    horde.fleet.change_worker(visitor.key, sent_forms.text(form, "id"), body)


def _pause_worker(horde: PrivateHorde, visitor: HordeVisitor, form: Form) -> None:
    horde.fleet.change_worker(visitor.key, sent_forms.text(form, "id"), {"paused": "on" in form})


def _delete_worker(horde: PrivateHorde, visitor: HordeVisitor, form: Form) -> None:
    horde.fleet.delete_worker(visitor.key, sent_forms.text(form, "id"))


def _invite(horde: PrivateHorde, visitor: HordeVisitor, form: Form) -> Secret:
    return Secret(
        "invitation", horde.people.invite(visitor.key, forms.invitation(form))["invitation"]
    )


def _withdraw(horde: PrivateHorde, visitor: HordeVisitor, form: Form) -> None:
    horde.people.withdraw(visitor.key, sent_forms.text(form, "id"))


def _change_person(horde: PrivateHorde, visitor: HordeVisitor, form: Form) -> None:
    before = horde.people.user(visitor.key, sent_forms.text(form, "id"))
    horde.people.change(visitor.key, sent_forms.text(form, "id"), forms.person(form, before))


def _block(horde: PrivateHorde, visitor: HordeVisitor, form: Form) -> None:
    horde.people.change(visitor.key, sent_forms.text(form, "id"), {"blocked": "on" in form})


def _delete_person(horde: PrivateHorde, visitor: HordeVisitor, form: Form) -> None:
    horde.people.delete(visitor.key, sent_forms.text(form, "id"))


def _restore_person(horde: PrivateHorde, visitor: HordeVisitor, form: Form) -> None:
    horde.people.change(visitor.key, sent_forms.text(form, "id"), {"undelete": True})


def _give_kudos(horde: PrivateHorde, visitor: HordeVisitor, form: Form) -> None:
    names = ("kudos", "monthly_kudos")
    body = sent_forms.filled(**{name: sent_forms.number(form, name) for name in names})
    horde.people.change(visitor.key, sent_forms.text(form, "id"), body)


def _make_persons_key(horde: PrivateHorde, visitor: HordeVisitor, form: Form) -> Secret:
    made = horde.people.make_key(visitor.key, sent_forms.text(form, "id"), {"name": "new"})
    return Secret("api_key", made["api_key"])


def _set_mode(horde: PrivateHorde, visitor: HordeVisitor, form: Form) -> None:
    horde.moderation.change_modes(visitor.key, {sent_forms.text(form, "mode"): "on" in form})


def _found_team(horde: PrivateHorde, visitor: HordeVisitor, form: Form) -> None:
    horde.moderation.create_team(visitor.key, forms.team(form))


def _change_team(horde: PrivateHorde, visitor: HordeVisitor, form: Form) -> None:
    horde.moderation.change_team(visitor.key, sent_forms.text(form, "id"), forms.team(form))


def _delete_team(horde: PrivateHorde, visitor: HordeVisitor, form: Form) -> None:
    horde.moderation.delete_team(visitor.key, sent_forms.text(form, "id"))


def _join_team(horde: PrivateHorde, visitor: HordeVisitor, form: Form) -> None:
    body = {"team": sent_forms.text(form, "id")}
    horde.fleet.change_worker(visitor.key, sent_forms.text(form, "worker"), body)


def _leave_team(horde: PrivateHorde, visitor: HordeVisitor, form: Form) -> None:
    horde.fleet.change_worker(visitor.key, sent_forms.text(form, "worker"), {"team": ""})


def _send_message(horde: PrivateHorde, visitor: HordeVisitor, form: Form) -> None:
    horde.moderation.send_message(visitor.key, forms.message(form))


def _delete_message(horde: PrivateHorde, visitor: HordeVisitor, form: Form) -> None:
    horde.moderation.delete_message(visitor.key, sent_forms.text(form, "id"))


def _add_filter(horde: PrivateHorde, visitor: HordeVisitor, form: Form) -> None:
    body = {"filter_type": forms.ANY_TYPE, **forms.prompt_filter(form)}
    horde.moderation.add_filter(visitor.key, body)


def _change_filter(horde: PrivateHorde, visitor: HordeVisitor, form: Form) -> None:
    horde.moderation.change_filter(
        visitor.key, sent_forms.text(form, "id"), forms.prompt_filter(form)
    )


def _delete_filter(horde: PrivateHorde, visitor: HordeVisitor, form: Form) -> None:
    horde.moderation.delete_filter(visitor.key, sent_forms.text(form, "id"))


def _try_prompt(horde: PrivateHorde, visitor: HordeVisitor, form: Form) -> dict[str, Any]:
    """{"matches": the filters that a prompt matches}."""
    outcome = horde.moderation.test_prompt(
        visitor.key, {"prompt": sent_forms.lines(form, "prompt")}
    )
    expressions = set(outcome["matches"])
    filters = horde.moderation.filters(visitor.key)
    return {"matches": [item for item in filters if item["regex"] in expressions]}


def _add_timeout(horde: PrivateHorde, visitor: HordeVisitor, form: Form) -> None:
    body = {
        "ipaddr": sent_forms.text(form, "ipaddr"),
        **sent_forms.filled(hours=sent_forms.number(form, "hours")),
    }
    horde.operations.add_timeout(visitor.key, body)


def _delete_timeout(horde: PrivateHorde, visitor: HordeVisitor, form: Form) -> None:
    horde.operations.delete_timeout(visitor.key, {"ipaddr": sent_forms.text(form, "ipaddr")})


def _block_worker(horde: PrivateHorde, visitor: HordeVisitor, form: Form) -> None:
    body = sent_forms.filled(days=sent_forms.number(form, "days"))
    horde.operations.block_worker(visitor.key, sent_forms.text(form, "id"), body)


def _publish_news(horde: PrivateHorde, visitor: HordeVisitor, form: Form) -> None:
    horde.moderation.publish_news(visitor.key, forms.news(form))


def _delete_news(horde: PrivateHorde, visitor: HordeVisitor, form: Form) -> None:
    horde.moderation.delete_news(visitor.key, sent_forms.text(form, "id"))


ACTIONS: Mapping[str, Action] = {
    "make-key": Action("account", _make_key),
    "delete-key": Action("account", _delete_key, "The key was deleted."),
    "make-shared-key": Action("account", _make_shared_key),
    "change-shared-key": Action("account", _change_shared_key, "The shared key was changed."),
    "delete-shared-key": Action("account", _delete_shared_key, "The shared key was deleted."),
    "send-kudos": Action("account", _send_kudos, "The kudos were sent."),
    "change-account": Action("account", _change_account, "Your account was changed."),
    "delete-account": Action("account", _delete_account, "Your account was deleted."),
    "cancel": Action("queue", _cancel, "The request was cancelled."),
    "rest-worker": Action("workers", _rest_worker, "The worker was changed."),
    "change-worker": Action("workers", _change_worker, "The worker was changed."),
    "pause-worker": Action("workers", _pause_worker, "The worker was changed."),
    "delete-worker": Action("workers", _delete_worker, "The worker was deleted."),
    "found-team": Action("teams", _found_team, "The team was founded."),
    "change-team": Action("teams", _change_team, "The team was changed."),
    "delete-team": Action("teams", _delete_team, "The team was deleted."),
    "join-team": Action("teams", _join_team, "The worker is in the team now."),
    "leave-team": Action("teams", _leave_team, "The worker has left the team."),
    "send-message": Action("messages", _send_message, "The message was sent."),
    "delete-message": Action("messages", _delete_message, "The message was deleted."),
    "publish-news": Action("news", _publish_news, "The news was published."),
    "delete-news": Action("news", _delete_news, "The news was deleted."),
    "invite": Action("invitations", _invite),
    "withdraw": Action("invitations", _withdraw, "The invitation was withdrawn."),
    "add-filter": Action("filters", _add_filter, "The filter was added."),
    "change-filter": Action("filters", _change_filter, "The filter was changed."),
    "delete-filter": Action("filters", _delete_filter, "The filter was deleted."),
    "try-prompt": Action("filters", _try_prompt),
    "add-timeout": Action("timeouts", _add_timeout, "The time-out has begun."),
    "delete-timeout": Action("timeouts", _delete_timeout, "The time-out has ended."),
    "block-worker": Action("workers", _block_worker, "The time-out of its address has begun."),
    "set-mode": Action("rules", _set_mode, "The mode was changed."),
    "change-person": Action("person", _change_person, "The account was changed."),
    "block": Action("person", _block, "The account was changed."),
    "delete-person": Action("person", _delete_person, "The account was deleted."),
    "restore-person": Action("person", _restore_person, "The account was restored."),
    "give-kudos": Action("person", _give_kudos, "The kudos were changed."),
    "make-persons-key": Action("person", _make_persons_key),
}
"""All buttons, by the last part of the path that their forms are sent to."""
