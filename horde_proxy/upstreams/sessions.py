"""Sessions for calls that go out. Of the environment, only its certificates are used.

By itself, requests sends the login of ~/.netrc to hosts that the file names, in place of our key
or beside it, and follows HTTP_PROXY. Proxies are settings here. Whom to call is not known here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from requests import Session
from requests.adapters import BaseAdapter

DIRECT = "direct"
"""The `proxy_url` of an endpoint that is called without a proxy."""
SYSTEM_CERTIFICATES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
"""Where systems keep all certificates in one file: Debian, Alpine and Arch; Fedora; SUSE; BSD and
macOS. Python's own default is a path of the machine that built it."""
_PROXY_VARIABLES = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY")


def new_session(adapter: BaseAdapter | None = None) -> Session:
    """A session whose connections are those of an adapter, or of requests' own."""
    session = Session()
    session.trust_env = False
    session.verify = trusted_certificates(os.environ).path or True
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


class Certificates(NamedTuple):
    """The file or folder of the authorities that are trusted, None for certifi's, and who says so.

    `origin` is the name of a variable, "this system" or "certifi".
    """

    path: str | None
    origin: str


def trusted_certificates(
    environ: Mapping[str, str], system: Sequence[str] = SYSTEM_CERTIFICATES
) -> Certificates:
    """Which certificates are trusted: those of a variable, of the system, or certifi's.

    The first two variables are requests' own, SSL_CERT_FILE is OpenSSL's, which ignores a file that
    is not there. The system's have the authority of a home network that its owner installed there.
    """
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        if bundle := environ.get(name):
            return Certificates(bundle, name)
    file = environ.get("SSL_CERT_FILE", "")
    if os.path.isfile(file):
        return Certificates(file, "SSL_CERT_FILE")
    path = next(filter(os.path.isfile, system), None)
    return Certificates(path, "this system") if path else Certificates(None, "certifi")
