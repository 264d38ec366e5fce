"""A llama model from a GGUF file that completes the payloads of jobs: text in, text out.

It knows payloads, but no horde and no HTTP. Threads may share a model: one generation at a time
runs, under a lock. If the next prompt begins like the last one, the keys and values of that part
are reused.
"""

from __future__ import annotations

import re
from codecs import getincrementaldecoder
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from threading import Lock
from types import MappingProxyType
from typing import Any, Self

import numpy as np

from horde_proxy.worker.llama.gguf_file import Array, GGUFFile, UnusableModel
from horde_proxy.worker.llama.network import Network
from horde_proxy.worker.llama.sampling import Sampler
from horde_proxy.worker.llama.vocabulary import Vocabulary

# ChatML's tags are for models with ChatML's control tokens, such as SmolLM2. Other models get
# Alpaca's tags, which are plain words.
CHATML_TAGS: Mapping[str, str] = MappingProxyType(
    {
        "SYSTEM": "<|im_start|>system\n",
        "SYSTEM_END": "<|im_end|>\n",
        "INPUT": "<|im_start|>user\n",
        "INPUT_END": "<|im_end|>\n",
        "OUTPUT": "<|im_start|>assistant\n",
        "OUTPUT_END": "<|im_end|>\n",
    }
)

ALPACA_TAGS: Mapping[str, str] = MappingProxyType(
    {
        "SYSTEM": "",
        "SYSTEM_END": "\n",
        "INPUT": "\n### Instruction:\n",
        "INPUT_END": "\n",
        "OUTPUT": "\n### Response:\n",
        "OUTPUT_END": "\n",
    }
)

# Many enough for fast matrix products, and few enough to cancel a long prompt soon.
_TOKENS_AT_ONCE = 128

# The end of a file's name without ".gguf": ".Q4_1", "-q8_0", ".IQ4_XS", "-bf16".
_QUANTISATION = re.compile(r"[.-](i?q\d\w*|bf16|f16|f32)$", re.IGNORECASE)


def _never() -> bool:
    return False


class Llama:
    """One model in memory. Thread-safe."""

    max_length = 1024
    """The longest generation, in tokens."""

    def __init__(
        self,
        name: str,
        vocabulary: Vocabulary,
        network: Network,
        generator: np.random.Generator | None = None,
    ) -> None:
        self.name = name
        self.max_context_length = network.shape.context_length
        self.tags = CHATML_TAGS if "<|im_start|>" in vocabulary.controls else ALPACA_TAGS
        self._vocabulary = vocabulary
        self._network = network
        self._generator = generator or np.random.default_rng()
        # Held for a whole generation: guards the network's cache and the random generator. No I/O
        # happens under it.
        self._lock = Lock()

    @classmethod
    def load(cls, path: Path) -> Self:
        """The model of a GGUF file. Loading takes a few seconds. Raises UnusableModel."""
        file = GGUFFile(path)
        network = Network(file)
        return cls(f"horde-proxy/{_model_name(path)}", _read_vocabulary(file), network)

    def count_tokens(self, text: str) -> int:
        """The number of tokens in a text."""
        return len(self._vocabulary.encode(text))

    def generate(self, payload: Mapping[str, Any], cancelled: Callable[[], bool] = _never) -> str:
        """The new text, up to and including a stop string. If cancelled, the text written so far.

        `payload` is the payload of a popped job. A prompt that leaves no room for max_length tokens
        loses its beginning, as on other workers.
        """
        return "".join(self.stream(payload, cancelled))

    def stream(
        self, payload: Mapping[str, Any], cancelled: Callable[[], bool] = _never
    ) -> Iterator[str]:
        """As `generate`, in pieces of whole characters."""
        decoder = getincrementaldecoder("utf-8")("replace")
        for piece in self._pieces(payload, cancelled):
            yield decoder.decode(piece)
        yield decoder.decode(b"", final=True)

    def _pieces(self, payload: Mapping[str, Any], cancelled: Callable[[], bool]) -> Iterator[bytes]:
        """The text in bytes, a token at a time."""
        room = min(_integer(payload, "max_context_length", 1 << 30), self.max_context_length)
        length = min(_integer(payload, "max_length", 80), self.max_length, room - 1)
        sampler = Sampler.from_payload(payload)
        # JSON may hold half a surrogate pair. As bytes, such a stop string matches no text.
        stops = [
            stop.encode("utf-8", "surrogatepass")
            for stop in payload.get("stop_sequence") or ()
            if stop
        ]
        prompt = self._prompt_ids(str(payload.get("prompt") or ""), room - length)
        written = bytearray()
        with self._lock:
            for token in islice(self._tokens(prompt, sampler, cancelled), max(length, 0)):
                before = len(written)
                written += self._vocabulary.token_bytes(token)
                end = _stop_end(written, before, stops)
                yield bytes(written[before:end])
                if end is not None:
                    return

    def _prompt_ids(self, prompt: str, room: int) -> list[int]:
        """The end of the prompt as 1 to `room` ids, with BOS first if the model uses it."""
        vocabulary = self._vocabulary
        ids = vocabulary.encode(prompt)
        if vocabulary.bos is not None and (vocabulary.add_bos or not ids):
            return [vocabulary.bos, *ids[max(0, len(ids) + 1 - room) :]]
        return ids[-max(room, 1) :] or [vocabulary.eos or 0]

    def _tokens(
        self, prompt: list[int], sampler: Sampler, cancelled: Callable[[], bool]
    ) -> Iterator[int]:
        """New tokens, until the model ends its text or the generation is cancelled."""
        ids = list(prompt)
        logits = self._read_prompt(ids, cancelled)
        while logits is not None:
            token = sampler.choose(logits, ids, self._generator)
            if self._vocabulary.ends_text(token):
                return
            yield token
            ids.append(token)
            logits = None if cancelled() else self._network.read([token])

    def _read_prompt(self, ids: list[int], cancelled: Callable[[], bool]) -> Array | None:
        """The logits after the prompt; None if cancelled. A beginning in the cache is skipped."""
        logits = None
        for start in range(self._network.rewind(ids), len(ids), _TOKENS_AT_ONCE):
            logits = self._network.read(ids[start : start + _TOKENS_AT_ONCE])
            if cancelled():
                return None
        return logits


def _stop_end(written: bytearray, before: int, stops: list[bytes]) -> int | None:
    """The index after the first stop string, or None.

    Only stop strings that end after `before` are searched: the text up to there has none.
    """
    ends = []
    for stop in stops:
        start = written.find(stop, max(0, before + 1 - len(stop)))
        if start >= 0:
            ends.append(start + len(stop))
    return min(ends, default=None)


def _integer(payload: Mapping[str, Any], name: str, default: int) -> int:
    value = payload.get(name)
    return default if value is None else int(value)


def _model_name(path: Path) -> str:
    """The file's name without suffix, quantisation and spaces.

    `general.name` in the metadata is no better: it is often the name of a training run.
    """
    return _QUANTISATION.sub("", path.name.removesuffix(".gguf")).strip().replace(" ", "-")


def _read_vocabulary(file: GGUFFile) -> Vocabulary:
    """The tokenizer of a file. Raises UnusableModel unless it is byte-level BPE."""
    model = file.required("tokenizer.ggml.model")
    if model != "gpt2":
        raise UnusableModel(
            f"{file.path}: its tokenizer is {model}; this runner supports only gpt2 "
            "(byte-level BPE)"
        )
    tokens = file.required("tokenizer.ggml.tokens")
    return Vocabulary(
        tokens,
        file.required("tokenizer.ggml.merges"),
        file.value("tokenizer.ggml.token_type", [1] * len(tokens)),
        bos=file.value("tokenizer.ggml.bos_token_id"),
        eos=file.value("tokenizer.ggml.eos_token_id"),
        add_bos=bool(file.value("tokenizer.ggml.add_bos_token", False)),
    )
