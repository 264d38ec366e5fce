"""The tokenizer of a GGUF file: text to token ids and back, by byte-level BPE (GPT-2's).

A text is split in three steps: at control tokens in the text, into words as SmolLM's pre-tokenizer
does (single digits, then GPT-2's pattern), and each word into tokens by merging neighbours. This
module knows no file and no network: a vocabulary is made from plain lists.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache
from heapq import heappop, heappush

CONTROL = 3
"""The value in GGUF's `tokenizer.ggml.token_type` of tokens such as "<|im_end|>"."""

# Unicode's White_Space, for which the pattern was made; Python's \s has \x1c-\x1f besides.
_SPACE = r"\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"

# GPT-2's pattern (openai/gpt-2, encoder.py), which needs \p{L} and \p{N}:
#   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
# "It's  two words!" becomes "It", "'s", " ", " two", " words", "!". Digits have been split off
# already (SmolLM's tokenizer.json: Digits with individual_digits), so that [^\W_] is \p{L} here.
_WORD = re.compile(
    r"'(?:s|t|re|ve|m|ll|d)| ?[^\W_]+"
    rf"| ?(?:[^\w{_SPACE}]|_)+|[{_SPACE}]+(?![^{_SPACE}])|[{_SPACE}]+"
)

# The words of a chat come again with each turn. Long words, such as base64, hardly ever do.
_WORDS_CACHED = 20_000
_LONGEST_CACHED = 64


class Vocabulary:
    """The tokens of one model. `eos` and `bos` are None if the model has no such token."""

    def __init__(
        self,
        tokens: Sequence[str],
        merges: Sequence[str],
        kinds: Sequence[int],
        bos: int | None = None,
        eos: int | None = None,
        add_bos: bool = False,
    ) -> None:
        ids = {token: number for number, token in enumerate(tokens)}
        self.tokens = tokens
        self.bos = bos
        self.eos = eos
        self.add_bos = add_bos and bos is not None
        self.controls = {tokens[n]: n for n, kind in enumerate(kinds) if kind == CONTROL}
        self._control = _alternatives(self.controls)
        self._control_ids = frozenset(self.controls.values())
        self._byte_ids = [ids.get(character) for character in _byte_characters()]
        self._bytes = {character: byte for byte, character in enumerate(_byte_characters())}
        self._merges = _merge_table(merges, ids)
        self._word_ids = lru_cache(_WORDS_CACHED)(self._merge_word)

    def __len__(self) -> int:
        return len(self.tokens)

    def encode(self, text: str) -> list[int]:
        """The token ids of a text, without BOS. Control tokens in the text become their ids.

        Like llama.cpp, it leaves out bytes for which the vocabulary has no token.
        """
        ids: list[int] = []
        for part in self._control.split(text) if self._control else [text]:
            if part in self.controls:
                ids.append(self.controls[part])
                continue
            for word in _words(part):
                is_short = len(word) <= _LONGEST_CACHED
                ids.extend(self._word_ids(word) if is_short else self._merge_word(word))
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids; bytes that are not UTF-8 become U+FFFD."""
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", "replace")

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of one token. They may be only a part of a character."""
        token = self.tokens[token_id]
        if token_id in self._control_ids:
            return token.encode()
        return bytes(self._bytes[character] for character in token if character in self._bytes)

    def ends_text(self, token_id: int) -> bool:
        """Whether a token is EOS or a control token: a turn, a document or a file ends there."""
        return token_id == self.eos or token_id in self._control_ids

    def _merge_word(self, word: str) -> tuple[int, ...]:
        """The token ids of one word."""
        spelled = (self._byte_ids[byte] for byte in word.encode("utf-8", "replace"))
        pieces = [piece for piece in spelled if piece is not None]
        if len(pieces) > 1:
            pieces = _merged(pieces, self._merges)
        return tuple(pieces)


_Merges = dict[tuple[int, int], tuple[int, int]]
"""(left id, right id) -> (rank, id of both together)."""


def _merge_table(merges: Sequence[str], ids: dict[str, int]) -> _Merges:
    """The merges of `tokenizer.ggml.merges`: "h e" joins two tokens; earlier ones come first."""
    table: _Merges = {}
    for rank, line in enumerate(merges):
        left, _, right = line.partition(" ")
        if left in ids and right in ids and left + right in ids:
            table.setdefault((ids[left], ids[right]), (rank, ids[left + right]))
    return table


def _merged(pieces: list[int], merges: _Merges) -> list[int]:
    """The pieces after all merges of neighbours: the best rank first, of equal ranks the leftmost.

    It keeps a heap of candidates over a linked list (`following`, `previous`), so that a word of n
    bytes takes n log n steps and not n². A piece merged into its left neighbour becomes -1.
    """
    size = len(pieces)
    following = list(range(1, size + 1))
    previous = list(range(-1, size - 1))
    heap: list[tuple[int, int, int, int]] = []

    def offer(left: int, right: int) -> None:
        if left >= 0 and right < size and (pieces[left], pieces[right]) in merges:
            rank, _ = merges[pieces[left], pieces[right]]
            heappush(heap, (rank, left, pieces[left], pieces[right]))

    for left in range(size - 1):
        offer(left, left + 1)
    while heap:
        _, left, left_id, right_id = heappop(heap)
        right = following[left]
        # The candidate is outdated if one of the two has been merged with its other neighbour.
        if right == size or (pieces[left], pieces[right]) != (left_id, right_id):
            continue
        pieces[left], pieces[right] = merges[left_id, right_id][1], -1
        following[left] = following[right]
        if following[right] < size:
            previous[following[right]] = left
        offer(left, following[left])
        offer(previous[left], left)
    return [piece for piece in pieces if piece >= 0]


def _words(text: str) -> Iterator[str]:
    """The words to be split into tokens, in order. Together, they are the text."""
    # Python's re has no \p{N}, so a character class is made from the digits in this text.
    numbers = "".join(c for c in set(text) if unicodedata.category(c).startswith("N"))
    for part in re.split(f"([{numbers}])", text) if numbers else [text]:
        if part and part in numbers:
            yield part
        else:
            yield from _WORD.findall(part)


def _alternatives(controls: dict[str, int]) -> re.Pattern[str] | None:
    # Of "<|im|>" and "<|im|>x", the longer must be tried first.
    longest_first = sorted(filter(None, controls), key=len, reverse=True)
    return re.compile(f"({'|'.join(map(re.escape, longest_first))})") if longest_first else None


def _byte_characters() -> list[str]:
    """The printable characters that represent the 256 bytes in GPT-2's vocabulary files.

    A printable byte is its own character. The others get characters from U+0100 on, so that a space
    is "Ġ" and a newline "Ċ" (bytes_to_unicode in openai/gpt-2, encoder.py).
    """
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    spare = iter(range(256, 512))
    return [chr(byte if byte in printable else next(spare)) for byte in range(256)]
