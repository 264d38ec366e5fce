"""Worker software: its name in a worker's `bridge_agent`, and the names that the horde trusts.

It knows nothing about individual workers.
"""

from __future__ import annotations

# Contract: bridge_reference.py:179-185, LLM_VALIDATED_BACKENDS. A request with
# `validated_backends` goes to these only; the rewards of all others are cut to 30 %.
VALIDATED_BACKENDS = frozenset(
    {
        "AI Horde Worker",
        "AI Horde Worker~aphrodite~oai",
        "AI Horde Worker~aphrodite~kai",
        "KoboldCppEmbedWorker",
        "TabbyAPI",
    }
)

UNKNOWN_AGENT = "unknown:0:unknown"
"""What the horde assumes of software that does not name itself (stable.py:229)."""


def software(agent: str) -> str:
    """The software in "name:version:contact"."""
    return agent.partition(":")[0]


def is_validated(agent: str) -> bool:
    """Whether the horde trusts this worker software.

    A version that cannot be read, such as that of "TabbyAPI:main:...", makes the software unknown
    (contract: apis/models/kobold_v2.py:271-291).
    """
    version = agent.split(":")[1] if ":" in agent else ""
    return software(agent) in VALIDATED_BACKENDS and version.replace(".", "").isdecimal()


def can_make_images(agent: str) -> bool:
    """Whether the horde gives images to this worker software.

    It gives none to the first one, "AI Horde Worker:1:...", which knows nothing of today's jobs
    (capture image_pop_skipped_bridge_version); its successor is "AI Horde Worker reGen".
    """
    return software(agent) != "AI Horde Worker"


_DREAMER = "AI Horde Worker reGen"
"""The software of image workers that the horde rewards in full (images-api.md 3.10)."""


def is_validated_dreamer(agent: str) -> bool:
    """Whether the horde trusts this software of an image worker."""
    return software(agent) == _DREAMER
