"""`horde-proxy users`: the members of a private horde, changed in its database."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from horde_proxy.commands.cli import main
from horde_proxy.private_horde import PrivateHorde
from horde_proxy.private_horde.records import HordeAccount
from horde_proxy.private_horde.store.opening import open_store


class Shell:
    """Runs `horde-proxy users` for a horde in a file."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.env = {
            "HORDE_PROXY_PRIVATE_HORDE__DATABASE": url,
            "HORDE_PROXY_PRIVATE_HORDE__ENABLED": "true",
        }

    def run(self, *words: str) -> Result:
        return CliRunner().invoke(main, ["users", *words], env=self.env)

    def out(self, *words: str) -> str:
        """What a command writes to stdout. It must succeed."""
        result = self.run(*words)
        assert result.exit_code == 0, result.output
        return result.stdout

    def json(self, *words: str) -> Any:
        return json.loads(self.out(*words, "--json"))

    def error(self, *words: str) -> str:
        """The error of a command that fails."""
        result = self.run(*words)
        assert result.exit_code == 1, result.output
        return result.stderr.strip()


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(f"sqlite:///{tmp_path}/horde.db")


def test_the_first_administrator_is_made_by_a_command(shell: Shell) -> None:
    result = shell.run("add", "ann", "--admin", "--role", "trusted", "--kudos", "75")
    key = result.stdout.strip()
    assert len(key) == 22
    assert result.stderr == "This is the key of ann#1. It cannot be shown again.\n"
    shown = shell.json("show", "ann")
    assert (shown["roles"], shown["kudos"]) == (["admin", "trusted"], 100.0)
    assert key not in json.dumps(shown)


def test_the_list_is_a_table(shell: Shell) -> None:
    shell.out("add", "ann", "--admin")
    shell.out("add", "ben")
    shell.out("block", "ben")
    rows = [line.split() for line in shell.out("list").splitlines()]
    assert [(row[0], row[-2], row[-1]) for row in rows] == [
        ("NAME", "ROLES", "STATE"),
        ("Anonymous#0", "-", "active"),
        ("ann#1", "admin", "active"),
        ("ben#2", "-", "blocked"),
    ]


def test_a_running_horde_sees_each_change(shell: Shell) -> None:
    store = open_store(shell.url)
    horde = PrivateHorde(store=store)
    key = shell.out("add", "ann").strip()
    assert horde.people.find_user(key)["username"] == "ann#1"
    shell.out("grant", "ann", "--role", "education", "--kudos", "5", "--monthly", "10")
    changed = horde.people.find_user(key)
    assert (changed["education"], changed["concurrency"], changed["kudos"]) == (True, 200, 40.0)
    shell.out("revoke", "ann", "education")
    assert horde.people.find_user(key)["concurrency"] == 30
    shell.out("block", "1")
    assert horde.people.find_user(key)["blocked"] is True
    shell.out("unblock", "ann#1")
    shell.out("delete", "ann")
    assert horde.people.find_user(key)["deleted"] is True
    shell.out("restore", "ann")
    assert horde.people.find_user(key)["deleted"] is False
    store.close()


def test_an_account_that_gets_the_role_trusted_gets_its_escrow(shell: Shell) -> None:
    store = open_store(shell.url)
    horde = PrivateHorde(store=store)
    ann = shell.out("add", "ann").strip()
    request = horde.submit("0000000000", {"prompt": "x", "params": {"max_length": 80}})
    popped = horde.pop(ann, {"name": "w", "models": ["koboldcpp/one-8B"], "max_length": 512})
    assert horde.status(request["id"])["processing"] == 1
    horde.submit_generation(ann, {"id": popped["id"], "generation": "hello " * 40})
    before = shell.json("show", "ann")
    assert before["evaluating_kudos"] > 0
    after = shell.json("grant", "ann", "--role", "trusted")
    assert after["evaluating_kudos"] == 0
    assert after["kudos"] == round(before["kudos"] + before["evaluating_kudos"], 2)
    store.close()


def test_commands_know_that_a_horde_is_without_kudos(shell: Shell) -> None:
    store = open_store(shell.url)
    yesterday = time.time() - 86_400
    horde = PrivateHorde(store=store, clock=lambda: yesterday, kudos=False)
    ann = shell.out("add", "ann").strip()
    horde.submit(ann, {"prompt": "x", "params": {"max_length": 500, "max_context_length": 1024}})
    shell.env["HORDE_PROXY_PRIVATE_HORDE__KUDOS"] = "off"
    # The request has expired: the command gives back its 50 seconds of ann's turn.
    shell.out("show", "ann")
    with store.snapshot() as tx:
        account = tx.get(HordeAccount, 1)
    assert account is not None
    assert round(account.turn - yesterday, 3) == 0
    store.close()


def test_keys_are_made_rotated_and_deleted(shell: Shell) -> None:
    shell.out("add", "ann")
    assert len(shell.json("key", "ann", "--label", "phone")["api_key"]) == 22
    assert sorted(key["name"] for key in shell.json("show", "ann")["keys"]) == ["", "phone"]
    shell.out("key", "ann", "--rotate")
    [key] = shell.json("show", "ann")["keys"]
    result = shell.run("key", "ann", "--delete", key["fingerprint"])
    assert result.stderr == f"The key {key['fingerprint']} no longer works.\n"
    assert shell.json("show", "ann")["keys"] == []


def test_the_help_says_which_key_a_rotation_leaves(shell: Shell) -> None:
    text = " ".join(shell.out("key", "--help").split())
    assert "All other keys stop working but the settings' key, which is changed there, or" in text
    assert "the one in owner.key: delete the file and restart." in text


def test_invitations_are_made_listed_and_withdrawn(shell: Shell) -> None:
    result = shell.run("invite", "--uses", "3", "--days", "0", "--note", "family")
    assert len(result.stdout.strip()) == 22
    assert result.stderr.startswith("It has no end and works 3 times. It cannot be shown again.")
    [listed] = shell.json("invite", "--list")
    assert (listed["uses_left"], listed["expires"], listed["note"]) == (3, None, "family")
    shell.out("invite", "--withdraw", str(listed["id"]))
    assert shell.json("invite", "--list") == []


def test_unknown_and_ambiguous_usernames_are_explained(shell: Shell) -> None:
    shell.out("add", "ann")
    shell.out("add", "ann")
    assert shell.error("show", "ann") == (
        "Error: Several accounts are called 'ann': name one of ann#1, ann#2."
    )
    assert shell.error("block", "cleo") == (
        "Error: There is no account 'cleo'. `users list` shows all."
    )
    assert shell.error("add", "a#1") == (
        "Error: A username has 1 to 30 visible characters, and no #."
    )
    assert shell.error("key", "0") == ("Error: The anonymous account has the key 0000000000 only.")


def test_there_is_nothing_to_change_of_a_horde_in_memory() -> None:
    assert Shell("memory").error("list") == (
        'Error: This horde is kept in memory (private_horde.database = "memory"), so there is '
        "nothing to change from outside. Use its API, or keep it in a database."
    )


def test_a_horde_that_is_off_may_be_prepared(shell: Shell) -> None:
    shell.env["HORDE_PROXY_PRIVATE_HORDE__ENABLED"] = "false"
    assert shell.run("add", "ann").stderr.startswith("The private horde is off: set private_horde.")


@pytest.mark.parametrize("words", [("grant", "1"), ("add", "x", "--kudos", "nan")])
def test_commands_that_say_too_little_are_explained(shell: Shell, words: tuple[str, ...]) -> None:
    assert shell.run(*words).exit_code == 2
