"""What a model's name says of the model: what it reads and writes, whether it thinks. Pure.

These are guesses, for models whose servers do not tell it. What a server tells goes first.
"""

from __future__ import annotations

import re
from functools import lru_cache

# Words of a name, and what such a model writes, in OpenRouter's words for output modalities. The
# first that matches counts, so that "bge-reranker-v2-m3" is no embedding model.
# rerank         bge-reranker-v2-m3, jina-reranker, Qwen3-Reranker-0.6B, mxbai-rerank-large
# embeddings     text-embedding-3-small, nomic-embed-text, Qwen3-Embedding-8B, all-minilm,
#                mxbai-embed-large, bge-m3, e5-mistral, gte-large, snowflake-arctic-embed
# transcription  whisper-large-v3, whisper-1, gpt-4o-transcribe, parakeet-tdt-0.6b
# speech         tts-1-hd, gpt-4o-mini-tts, playai-tts, kokoro-82m, orpheus-3b
# image          dall-e-3, gpt-image-1, stable-diffusion-xl, sdxl-turbo, FLUX.1-schnell, qwen-image
# moderation     omni-moderation-latest, text-moderation-stable
_OUTPUTS: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (output, re.compile(rf"(?<![a-z])(?:{words})(?![a-z])"))
    for output, words in (
        ("rerank", r"re-?rank(?:er|ing)?|colbert"),
        (
            "embeddings",
            r"embed(?:ding|der)?s?|embeddinggemma|(?:all|paraphrase)-minilm|minilm|mpnet"
            r"|bge|e5|gte|labse|sentence-t5",
        ),
        ("transcription", r"whisper|transcribe|parakeet|canary-1b"),
        ("speech", r"x?tts|kokoro|orpheus-3b"),
        (
            "image",
            r"dall-?e|gpt-image|chatgpt-image|stable-?diffusion|sdxl|sd-turbo|flux|imagen"
            r"|qwen-image|z-image",
        ),
        ("moderation", r"moderation"),
    )
)

# Families that write their thoughts first: DeepSeek-R1 and its distills ("-R1-"), QwQ-32B,
# Qwen3-8B (hybrid), Qwen3-4B-Thinking-2507, gpt-oss-20b, Magistral-Small, GLM-4.5 and later,
# GLM-Z1, MiniMax-M2, Phi-4-reasoning, SmolLM3-3B, Seed-OSS-36B, EXAONE-Deep, o3-mini.
_REASONING = re.compile(
    r"(?<![a-z0-9])(?:r1|r1-0528|qwq|qvq|qwen3(?:\.[0-9]+)?|gpt-oss|magistral|glm-z1|minimax-m[12]"
    r"|glm-(?:4\.[5-9]|[5-9])|smollm3|seed-oss|exaone-deep|thinking|thinker|reasoning|reasoner"
    r"|o[134](?:-mini|-pro|-preview)?)(?![a-z0-9])"
)
# Members of those families that answer at once: Qwen3-30B-A3B-Instruct-2507, Qwen3-Coder-30B,
# Qwen3-VL-8B-Instruct, Qwen3-Next-80B-A3B-Instruct.
_AT_ONCE = re.compile(r"qwen3[a-z0-9.-]*-(?:instruct|coder)|qwen3-(?:coder|next.*-instruct)")
# Models that read images: Qwen2.5-VL-7B, llava:13b, Llama-3.2-11B-Vision, Pixtral-12B,
# InternVL3-8B, MiniCPM-V-2.6, moondream2, SmolVLM-500M, Molmo-7B, gemma-3-12b-it and gemma3:12b.
_VISION = re.compile(
    r"(?<![a-z])(?:vl|(?:bak)?llava|vision|pixtral|internvl|minicpm-v|moondream|smolvlm|molmo"
    r"|gemma-?3[-:](?:4|12|27)b)(?![a-z])"
)
_GAPS = re.compile(r"[\s_]+")


# The same few hundred names come with each refresh of a list.
@lru_cache(maxsize=4096)
def output_of(name: str) -> str | None:
    """What a model of this name writes, if it is something else than text; None otherwise."""
    plain = _plain(name)
    return next((output for output, words in _OUTPUTS if words.search(plain)), None)


@lru_cache(maxsize=4096)
def thinks(name: str) -> bool:
    """Whether a model of this name is of a family that writes its thoughts before an answer."""
    plain = _plain(name)
    return bool(_REASONING.search(plain)) and not _AT_ONCE.search(plain)


@lru_cache(maxsize=4096)
def sees(name: str) -> bool:
    """Whether a model of this name is of a family that reads images."""
    return bool(_VISION.search(_plain(name)))


def _plain(name: str) -> str:
    """The model's own name: without engine and author, in lower case, "-" in each gap."""
    return _GAPS.sub("-", name.rpartition("/")[2].casefold())
