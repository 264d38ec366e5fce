"""The llama network in numpy: token ids in, logits out, with a cache of keys and values.

The architecture (LLaMA, arXiv 2302.13971) is a stack of equal blocks. Each normalises its input
(RMSNorm, arXiv 1910.07467), lets the tokens look at those before them (attention with fewer keys
than queries, arXiv 2305.13245, positions by RoPE, arXiv 2104.09864), adds the result, and does the
same with a gated feed-forward layer (SwiGLU, arXiv 2002.05202). Tensor names and hyperparameters
are those of llama.cpp's GGUF files (gguf-py, constants.py, MODEL_ARCH.LLAMA).

It knows no text and draws no tokens. Only one thread at a time may use an object.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Self

import numpy as np
import numpy.typing as npt

from horde_proxy.worker.llama.gguf_file import Array, GGUFFile, UnusableModel

LONGEST_CONTEXT = 8192
"""Tokens. A CPU would need minutes to read a longer prompt."""

# Tokens in the first cache. It doubles when it is full, so that a short chat takes little memory.
_FIRST_ROOM = 512

# "token_embd.weight", "blk.0.attn_q.weight", "blk.29.ffn_down.weight"; but not "blk.0.attn_q.bias"
# (Qwen2) or "blk.0.ffn_gate_exps.weight" (Mixtral).
_KNOWN_TENSORS = re.compile(
    r"(token_embd|output_norm|output|rope_freqs"
    r"|blk\.\d+\.(attn_(norm|q|k|v|output)|ffn_(norm|gate|up|down)))\.weight"
)


@dataclass(frozen=True, slots=True)
class Shape:
    """The hyperparameters, with llama.cpp's names without their prefix."""

    block_count: int
    embedding_length: int
    feed_forward_length: int
    head_count: int
    head_count_kv: int
    head_length: int
    rope_length: int
    rope_base: float
    epsilon: float
    context_length: int
    vocabulary_length: int

    @classmethod
    def read(cls, file: GGUFFile) -> Self:
        """The hyperparameters of a file. Raises UnusableModel if it is not a plain llama."""
        _refuse_other_architectures(file)
        try:
            shape = cls._of_metadata(file)
            sound = shape._is_sound()
        except (ValueError, TypeError, ZeroDivisionError):
            sound = False
        if not sound:
            raise UnusableModel(f"{file.path}: its hyperparameters make no sense; get another file")
        return shape

    @classmethod
    def _of_metadata(cls, file: GGUFFile) -> Self:
        # Missing keys get llama.cpp's defaults.
        heads = int(file.required("llama.attention.head_count"))
        width = int(file.required("llama.embedding_length"))
        head_length = int(file.value("llama.attention.key_length", width // heads))
        context = int(file.required("llama.context_length"))
        return cls(
            block_count=int(file.required("llama.block_count")),
            embedding_length=width,
            feed_forward_length=int(file.required("llama.feed_forward_length")),
            head_count=heads,
            head_count_kv=int(file.value("llama.attention.head_count_kv", heads)),
            head_length=head_length,
            rope_length=int(file.value("llama.rope.dimension_count", head_length)),
            rope_base=float(file.value("llama.rope.freq_base", 10000.0)),
            epsilon=float(file.required("llama.attention.layer_norm_rms_epsilon")),
            context_length=min(context, LONGEST_CONTEXT),
            vocabulary_length=len(file.required("tokenizer.ggml.tokens")),
        )

    def _is_sound(self) -> bool:
        """Whether tensors with these dimensions are possible."""
        return (
            min(self.block_count, self.head_length, self.context_length) > 0
            and self.head_count % self.head_count_kv == 0
            and self.rope_length in range(2, self.head_length + 1, 2)
            and self.rope_base > 0
        )


@dataclass(frozen=True, slots=True)
class Layer:
    """The weights of one block, in the order of use. Matrices have the shape (outputs, inputs)."""

    attention_norm: Array
    query_key_value: Array
    attention_output: Array
    feed_forward_norm: Array
    gate_up: Array
    down: Array

    @classmethod
    def read(cls, file: GGUFFile, number: int, shape: Shape) -> Self:
        """One block's weights. Matrices with the same input are stacked, to need one product."""
        prefix, width, hidden = f"blk.{number}.", shape.embedding_length, shape.feed_forward_length
        queries = shape.head_count * shape.head_length
        keys = shape.head_count_kv * shape.head_length
        return cls(
            attention_norm=file.tensor(f"{prefix}attn_norm.weight", width),
            query_key_value=file.stacked(
                {
                    f"{prefix}attn_q.weight": (queries, width),
                    f"{prefix}attn_k.weight": (keys, width),
                    f"{prefix}attn_v.weight": (keys, width),
                }
            ),
            attention_output=file.tensor(f"{prefix}attn_output.weight", width, queries),
            feed_forward_norm=file.tensor(f"{prefix}ffn_norm.weight", width),
            gate_up=file.stacked(
                {
                    f"{prefix}ffn_gate.weight": (hidden, width),
                    f"{prefix}ffn_up.weight": (hidden, width),
                }
            ),
            down=file.tensor(f"{prefix}ffn_down.weight", width, hidden),
        )


class Network:
    """The weights, and a cache with the keys and values of the `tokens` read so far."""

    def __init__(self, file: GGUFFile) -> None:
        self.shape = shape = Shape.read(file)
        _refuse_unknown_tensors(file)
        self.tokens: list[int] = []
        self._embedding = file.tensor(
            "token_embd.weight", shape.vocabulary_length, shape.embedding_length
        )
        self._layers = [Layer.read(file, number, shape) for number in range(shape.block_count)]
        self._output_norm = file.tensor("output_norm.weight", shape.embedding_length)
        # Small models use the embedding for the output, too: SmolLM2 has no output.weight.
        self._output = self._embedding
        if "output.weight" in file.tensor_names:
            self._output = file.tensor("output.weight", *self._embedding.shape)
        self._rotations = _rotations(file, shape)
        self._caches = [self._new_cache(0) for _ in self._layers]

    def rewind(self, ids: Sequence[int]) -> int:
        """The number of these ids that are in the cache already. Drops what comes after them.

        The last id never counts: it must be read again, because reading it gives the logits.
        """
        pairs = zip(self.tokens, ids[:-1], strict=False)
        shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        del self.tokens[shared:]
        return shared

    def read(self, ids: Sequence[int]) -> Array:
        """The logits after these ids, which follow the cached ones and are cached as well."""
        start, end = len(self.tokens), len(self.tokens) + len(ids)
        if not start < end <= self.shape.context_length:
            raise ValueError(f"{end} tokens do not fit a context of {self.shape.context_length}")
        self._reserve(end)
        hidden: Array = self._embedding[np.asarray(ids)]
        for layer, cache in zip(self._layers, self._caches, strict=True):
            normed = _rms_norm(hidden, layer.attention_norm, self.shape.epsilon)
            mixed = self._attend(normed @ layer.query_key_value.T, start, cache)
            hidden += mixed @ layer.attention_output.T
            normed = _rms_norm(hidden, layer.feed_forward_norm, self.shape.epsilon)
            hidden += _swiglu(normed @ layer.gate_up.T) @ layer.down.T
        self.tokens.extend(ids)
        last = _rms_norm(hidden[-1:], self._output_norm, self.shape.epsilon)
        logits: Array = self._output @ last[0]
        return logits

    def _new_cache(self, tokens: int) -> Array:
        shape = self.shape
        return np.empty((2, shape.head_count_kv, tokens, shape.head_length), np.float32)

    def _reserve(self, tokens: int) -> None:
        """Make room in the caches for this number of tokens.

        One layer after the other, because two whole sets of caches would double the memory.
        """
        capacity = self._caches[0].shape[2]
        if tokens <= capacity:
            return
        room = min(self.shape.context_length, max(tokens, 2 * capacity, _FIRST_ROOM))
        known = len(self.tokens)
        for number, old in enumerate(self._caches):
            self._caches[number] = self._new_cache(room)
            self._caches[number][:, :, :known] = old[:, :, :known]

    def _attend(self, projected: Array, start: int, cache: Array) -> Array:
        """Attention: what each new token takes from itself and the tokens before it.

        `projected` holds queries, keys and values side by side, (tokens, all heads * length). The
        new keys and values are written into the layer's cache, (2, kv heads, tokens, length). The
        result is (tokens, heads * length).
        """
        shape, count = self.shape, len(projected)
        end, groups = start + count, shape.head_count // shape.head_count_kv
        heads = projected.reshape(count, -1, shape.head_length)
        rotated = shape.head_count + shape.head_count_kv
        _rotate(heads[:, :rotated, : shape.rope_length], self._rotations[start:end])
        keys, values = cache[:, :, :end]
        keys[:, start:] = heads[:, shape.head_count : rotated].swapaxes(0, 1)
        values[:, start:] = heads[:, rotated:].swapaxes(0, 1)

        # The queries of `groups` heads share one head of keys. Stacked, they need one product.
        stacked = (shape.head_count_kv, groups, count, shape.head_length)
        queries = heads[:, : shape.head_count].swapaxes(0, 1).reshape(stacked[0], -1, stacked[3])
        scores = queries @ keys.swapaxes(1, 2)
        scores *= np.float32(shape.head_length**-0.5)
        # A token must not see later tokens: their scores become minus infinity.
        if count > 1:
            by_token = scores.reshape(-1, count, end)
            by_token[:, :, start:] += np.triu(np.full((count, count), -np.inf, np.float32), 1)
        _softmax(scores)
        mixed = (scores @ values).reshape(stacked)
        by_head: Array = mixed.transpose(2, 0, 1, 3)
        return by_head.reshape(count, -1)


def _refuse_other_architectures(file: GGUFFile) -> None:
    """Raise UnusableModel for another architecture, or for scaled positions."""
    architecture = file.required("general.architecture")
    if architecture != "llama":
        raise UnusableModel(
            f"{file.path}: its architecture is {architecture}; this runner supports only llama "
            "(run others with a model server, and point the worker's --backend at it)"
        )
    scaling = file.value("llama.rope.scaling.type", "none")
    if scaling != "none":
        raise UnusableModel(f"{file.path}: this runner does not support RoPE scaling {scaling}")


def _refuse_unknown_tensors(file: GGUFFile) -> None:
    """Raise UnusableModel for weights that the network would ignore, such as a bias or an expert.

    Without them, the output would be nonsense.
    """
    unknown = sorted(name for name in file.tensor_names if not _KNOWN_TENSORS.fullmatch(name))
    if unknown:
        raise UnusableModel(
            f"{file.path}: this runner does not support models with the tensor {unknown[0]}"
        )


def _rotations(file: GGUFFile, shape: Shape) -> npt.NDArray[np.complex64]:
    """The complex number that rotates each pair at each position: (context, rope_length / 2).

    Pair i turns by rope_base^(-i / pairs) per position (RoFormer, section 3.2.2). Files of
    Llama 3.1 and later divide these frequencies by `rope_freqs`, one factor a pair.
    """
    pairs = shape.rope_length // 2
    frequencies = shape.rope_base ** (-np.arange(pairs) / pairs)
    if "rope_freqs.weight" in file.tensor_names:
        frequencies /= file.tensor("rope_freqs.weight", pairs)
    angles = np.outer(np.arange(shape.context_length), frequencies)
    rotations: npt.NDArray[np.complex64] = np.exp(1j * angles).astype(np.complex64)
    return rotations


def _rotate(heads: Array, rotations: npt.NDArray[np.complex64]) -> None:
    """RoPE, in place, on (tokens, heads, rope length).

    A pair is two neighbours. Hugging Face's files pair the first half of a head with the second,
    but llama.cpp's conversion permutes the rows of attn_q and attn_k.
    """
    pairs = heads.view(np.complex64)
    pairs *= rotations[:, np.newaxis]


def _rms_norm(hidden: Array, weight: Array, epsilon: float) -> Array:
    """Each row divided by its root mean square, times the weights."""
    mean_squares = np.vecdot(hidden, hidden)[:, np.newaxis] / np.float32(hidden.shape[1])
    normed: Array = hidden / np.sqrt(mean_squares + np.float32(epsilon))
    normed *= weight
    return normed


def _swiglu(gate_up: Array) -> Array:
    """silu(gate) * up, where silu(x) = x / (1 + exp(-x)).

    Computed as x/2 * (1 + tanh(x/2)), which is equal and never overflows.
    """
    gate, up = np.split(gate_up, 2, axis=1)
    gate *= np.float32(0.5)
    gated: Array = np.tanh(gate)
    gated += np.float32(1)
    gated *= gate
    gated *= up
    return gated


def _softmax(scores: Array) -> None:
    """Softmax, in place, over the last axis. Subtracting the maximum prevents an overflow."""
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=-1, keepdims=True)
