"""A llama model of a GGUF file that completes horde payloads: text in, text out.

It knows payloads, but no horde and no HTTP; one generation runs at a time.
"""

import re
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

__all__ = ["ALPACA_TAGS", "CHATML_TAGS", "Llama"]

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

_TOKENS_AT_ONCE = 128

_QUANTISATION = re.compile(r"[.-](i?q\d\w*|bf16|f16|f32)$", re.IGNORECASE)


def _never() -> bool:
    return False


class Llama:
    """One model in memory; safe to share between threads."""

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
        self._lock = Lock()

    @classmethod
    def load(cls, path: Path) -> Self:
        """The model of a GGUF file, in a few seconds; UnusableModel says what is wrong with it."""
        file = GGUFFile(path)
        network = Network(file)
        return cls(f"horde-proxy/{_model_name(path)}", _read_vocabulary(file), network)

    def count_tokens(self, text: str) -> int:
        """How many tokens a text has."""
        return len(self._vocabulary.encode(text))

    def generate(self, payload: Mapping[str, Any], cancelled: Callable[[], bool] = _never) -> str:
        """The new text only, up to and including a stop string; what there is, if cancelled.

        The payload is that of a popped job. A prompt that leaves no room for max_length
        tokens loses its beginning.
        """
        room = min(_whole(payload, "max_context_length", 1 << 30), self.max_context_length)
        wanted = min(_whole(payload, "max_length", 80), self.max_length, room - 1)
        sampler = Sampler.from_payload(payload)
        stops = [stop.encode() for stop in payload.get("stop_sequence") or () if stop]
        prompt = self._prompt_ids(str(payload.get("prompt") or ""), room - wanted)
        written = bytearray()
        with self._lock:
            for token in islice(self._tokens(prompt, sampler, cancelled), max(wanted, 0)):
                before = len(written)
                written += self._vocabulary.token_bytes(token)
                if (end := _stop_end(written, before, stops)) is not None:
                    del written[end:]
                    break
        return written.decode("utf-8", "replace")

    def _prompt_ids(self, prompt: str, room: int) -> list[int]:
        """At least one id and at most `room`: the end of the prompt, with BOS where it is used."""
        vocabulary = self._vocabulary
        ids = vocabulary.encode(prompt)
        if vocabulary.bos is not None and (vocabulary.add_bos or not ids):
            return [vocabulary.bos, *ids[max(0, len(ids) + 1 - room) :]]
        return ids[-max(room, 1) :] or [vocabulary.eos or 0]

    def _tokens(
        self, prompt: list[int], sampler: Sampler, cancelled: Callable[[], bool]
    ) -> Iterator[int]:
        """New tokens until the model ends its text or it is cancelled."""
        ids = list(prompt)
        for logits in self._read_prompt(ids):  # noqa: B007
            if cancelled():
                return
        while True:
            token = sampler.choose(logits, ids, self._generator)
            if self._vocabulary.ends_text(token):
                return
            yield token
            if cancelled():
                return
            ids.append(token)
            logits = self._network.read([token])

    def _read_prompt(self, ids: list[int]) -> Iterator[Array]:
        """Logits after each batch of the prompt; a beginning that is still known is not read."""
        start = self._network.rewind(ids)
        for batch in range(start, len(ids), _TOKENS_AT_ONCE):
            yield self._network.read(ids[batch : batch + _TOKENS_AT_ONCE])


def _stop_end(written: bytearray, before: int, stops: list[bytes]) -> int | None:
    """Where the first stop string ends, or None; only what came after `before` can end one."""
    ends = []
    for stop in stops:
        found = written.find(stop, max(0, before + 1 - len(stop)))
        if found >= 0:
            ends.append(found + len(stop))
    return min(ends, default=None)


def _whole(payload: Mapping[str, Any], name: str, default: int) -> int:
    value = payload.get(name)
    return default if value is None else int(value)


def _model_name(path: Path) -> str:
    """The file's name without suffix, quantisation and spaces (general.name is often a run's)."""
    return _QUANTISATION.sub("", path.name.removesuffix(".gguf")).strip().replace(" ", "-")


def _read_vocabulary(file: GGUFFile) -> Vocabulary:
    """The tokenizer; UnusableModel unless it is byte-level BPE."""
    model = file.required("tokenizer.ggml.model")
    if model != "gpt2":
        raise UnusableModel(
            f"{file.path}: its tokenizer is of the kind {model}; only gpt2 (byte-level BPE) "
            "can be run here"
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
