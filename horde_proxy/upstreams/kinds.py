"""The kinds of upstreams that take requests as they are, by the type that the settings name."""

from horde_proxy.upstreams.openai.ocf import OCFUpstream
from horde_proxy.upstreams.openai.upstream import OpenAIUpstream

RELAYS: dict[str, type[OpenAIUpstream]] = {"openai": OpenAIUpstream, "ocf": OCFUpstream}
