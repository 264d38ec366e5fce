"""What a key allows, and how it is recognised."""

from __future__ import annotations

from horde_proxy.key_digest import digest_of_setting, key_digest
from horde_proxy.ledger.keys import ClientKey, new_key

# printf hp-example | sha256sum
EXAMPLE = "5b0680122f624721e4cff4e311874a5616d92d6e4b9b8542d33ef331136ef7e5"


def test_a_key_without_patterns_may_use_everything() -> None:
    key = ClientKey("ann")
    assert key.allows_model("any/model")
    assert key.allows_endpoint("chat", "home")


def test_a_pattern_for_models_ignores_case() -> None:
    key = ClientKey("ann", models=("*Llama-3*", "koboldcpp/Qwen?"))
    assert key.allows_model("aphrodite/LLAMA-3-8b")
    assert key.allows_model("KoboldCpp/qwen2")
    assert not key.allows_model("koboldcpp/qwen25")


def test_an_endpoint_is_allowed_by_its_name() -> None:
    key = ClientKey("ann", endpoints=("chat",))
    assert key.allows_endpoint("chat", "home")
    assert not key.allows_endpoint("chat2", "home")


def test_the_horde_key_is_not_shown() -> None:
    assert "secret" not in repr(ClientKey("ann", horde_key="secret"))


def test_two_new_keys_differ_and_are_long() -> None:
    one, two = new_key(), new_key()
    assert one != two
    assert (one[:3], len(one)) == ("hp-", 46)


def test_a_key_has_the_digest_of_its_text() -> None:
    assert key_digest("hp-example") == digest_of_setting("hp-example") == EXAMPLE


def test_a_digest_in_the_configuration_is_used_unchanged() -> None:
    assert digest_of_setting("sha256:" + EXAMPLE.upper()) == EXAMPLE


def test_a_digest_of_the_wrong_length_is_a_key() -> None:
    assert digest_of_setting("sha256:" + EXAMPLE[1:]) == key_digest("sha256:" + EXAMPLE[1:])


def test_a_digest_sent_by_a_client_is_hashed_again() -> None:
    assert key_digest("sha256:" + EXAMPLE) != EXAMPLE


def test_half_a_surrogate_pair_has_a_digest() -> None:
    assert len(key_digest("\ud800")) == 64
