"""Text of others as it may be printed, and URLs without what is secret in them."""

from __future__ import annotations

import pytest

from horde_proxy import printable
from horde_proxy.commands.check import check_horde
from horde_proxy.commands.serve import _summary
from horde_proxy.config import ConfigError, load
from tests.support import CLIENT_KEY, Scripted, World

SECRET_URL = "http://user:geheim@horde.invalid"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://aihorde.net/api", "https://aihorde.net/api"),
        ("https://user:geheim@a.invalid:81/api?key=geheim", "https://a.invalid:81/api"),
        ("http://user@[::1]:81", "http://[::1]:81"),
    ],
)
def test_a_url_is_shown_without_its_login(url: str, shown: str) -> None:
    assert printable.without_login(url) == shown


def test_no_client_and_no_reader_of_the_log_sees_the_login_of_a_horde() -> None:
    world = World(horde={"url": SECRET_URL})
    world.session.mount(SECRET_URL, world.session.get_adapter("http://horde.invalid"))
    world.employ(Scripted("Hello."))
    http = world.http()
    texts = [http.get(path).text for path in ("/v1/endpoints", "/page/state.json", "/v1/models")]
    settings = world.config()
    texts.append(_summary(settings))
    texts += [finding.what + finding.fix for finding in check_horde(settings, world.session)]
    assert "http://horde.invalid/api/v2" in texts[0]
    assert [text for text in texts if "geheim" in text] == []
    assert CLIENT_KEY not in "".join(texts)


@pytest.mark.parametrize(
    ("section", "name"),
    [("horde", "url"), ("server", "proxy_url"), ("server", "bind"), ("horde", "webhook_url")],
)
def test_a_wrong_setting_with_a_login_is_not_shown(section: str, name: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load(environ={}, flags={section: {name: "ftp://user:geheim@host"}})
    assert f"setting {section}.{name} = (hidden) from the command line: " in str(raised.value)
    assert "geheim" not in str(raised.value)
