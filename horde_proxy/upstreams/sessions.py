"""Sessions for calls that go out. Of the environment, only its certificates are used.

By itself, requests sends the login of ~/.netrc to hosts that the file names, in place of our key
or beside it, and follows HTTP_PROXY. Proxies are settings here. Whom to call is not known here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from requests import Session
from requests.adapters import BaseAdapter

DIRECT = "direct"
"""The `proxy_url` of an endpoint that is called without a proxy."""
_PROXY_VARIABLES = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY")


def new_session(adapter: BaseAdapter | None = None) -> Session:
    """A session whose connections are those of an adapter, or of requests' own."""
    session = Session()
    session.trust_env = False
    session.verify = _certificates(os.environ) or True
    if adapter is not None:
        session.mount("http://", adapter)
        session.mount("https://", adapter)
    return session


def with_proxy(session: Session, proxy_url: str | None) -> Session:
    """The session, whose calls go through an HTTP proxy; directly for None and "direct"."""
    if proxy_url and proxy_url != DIRECT:
        session.proxies = {"http": proxy_url, "https": proxy_url}
    return session


def ignored_proxies(environ: Mapping[str, str]) -> list[str]:
    """The variables of the environment that name a proxy, which is not used."""
    # curl and others read both spellings.
    names = [name for upper in _PROXY_VARIABLES for name in (upper, upper.lower())]
    return [name for name in names if environ.get(name)]


def _certificates(environ: Mapping[str, str]) -> str | None:
    """The file or folder of certificates that replaces certifi's, or None.

    The first two are requests' own variables, SSL_CERT_FILE is OpenSSL's, which ignores a file that
    is not there.
    """
    bundle = environ.get("REQUESTS_CA_BUNDLE") or environ.get("CURL_CA_BUNDLE")
    file = environ.get("SSL_CERT_FILE", "")
    return bundle or (file if os.path.isfile(file) else None)
