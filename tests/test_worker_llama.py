"""The model runner, on tiny models that are made here; the real one is in live/test_smollm2.py."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
np = pytest.importorskip("numpy")
gguf = pytest.importorskip("gguf")
pytest.importorskip("numpy.testing")  # its import starts a process

from hypothesis import example, given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from horde_proxy.worker.llama import Llama, UnusableModel, model, network, vocabulary  # noqa: E402
from horde_proxy.worker.llama.gguf_file import GGUFFile  # noqa: E402
from horde_proxy.worker.llama.sampling import Sampler  # noqa: E402

WIDTH, HIDDEN, HEADS, KV_HEADS, LENGTH, BLOCKS, CONTEXT = 32, 64, 4, 2, 8, 2, 48
ROPE_BASE, EPSILON = 10000.0, 1e-5

MERGES = ["h e", "l l", "he ll", "hell o", "Ġ w", "1 2", "a a", "Ġ Ġ", "Ċ Ċ"]
CONTROLS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
BYTES = vocabulary._byte_characters()
TOKENS = CONTROLS + BYTES + [merge.replace(" ", "") for merge in MERGES]
KINDS = [3] * len(CONTROLS) + [1] * (len(TOKENS) - len(CONTROLS))
EOS = 2

VOCABULARY = vocabulary.Vocabulary(TOKENS, MERGES, KINDS, bos=1, eos=EOS)


def ids_of(*tokens: str) -> list[int]:
    return [TOKENS.index(token) for token in tokens]


# --- the tokenizer


@given(st.text(max_size=60))
@example("")
@example(" \t\n\x0b\x1c\x1f\x85\xa0\u2003 x_y__z 'll I'LL it's ½²Ⅷ一二12 \u0301é 👨‍👩‍👧\ufeff")
def test_any_text_survives_encoding_and_decoding(text: str) -> None:
    assert text == VOCABULARY.decode(VOCABULARY.encode(text))


@given(st.text(st.sampled_from(" \t\n\x1ca_'sl1½é一.😀"), max_size=30))
def test_the_words_together_are_the_text(text: str) -> None:
    assert text == "".join(vocabulary._words(text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello, wide world!", ["Hello", ",", " wide", " world", "!"]),
        ("we'll see, IT'S so", ["we", "'ll", " see", ",", " IT", "'", "S", " so"]),
        ("in 1984", ["in", " ", "1", "9", "8", "4"]),
        ("x²+½ Ⅷ", ["x", "²", "+", "½", " ", "Ⅷ"]),
        ("snake_case __init__", ["snake", "_", "case", " __", "init", "__"]),
        ("a   b", ["a", "  ", " b"]),
        ("end  \n\n", ["end", "  \n\n"]),
        ("käse 你好 étude", ["käse", " 你好", " étude"]),
        ("e\u0301", ["e", "\u0301"]),
        ("a\x1cb", ["a", "\x1c", "b"]),
        ("a\u3000b", ["a", "\u3000", "b"]),
    ],
)
def test_text_is_cut_into_words_like_smollm_s_pre_tokenizer(text: str, expected: Any) -> None:
    assert expected == list(vocabulary._words(text))


def test_merges_apply_by_rank_and_then_from_the_left() -> None:
    assert ids_of("hello", "Ġw", "o") == VOCABULARY.encode("hello wo")
    assert ids_of("aa", "a") == VOCABULARY.encode("aaa")
    assert ids_of("hell", "ll") == VOCABULARY.encode("hellll")


def test_digits_stay_single_even_if_a_merge_exists() -> None:
    assert ids_of("1", "2") == VOCABULARY.encode("12")


def test_control_tokens_in_a_text_become_their_ids() -> None:
    expected = [1, *ids_of("hello"), 2, *ids_of("Ċ")]
    assert expected == VOCABULARY.encode("<|im_start|>hello<|im_end|>\n")
    assert VOCABULARY.decode(expected[:2]) == "<|im_start|>hello"


def test_a_lone_surrogate_becomes_a_question_mark() -> None:
    assert ids_of("?", "a") == VOCABULARY.encode("\ud800a")


def test_bytes_that_the_vocabulary_lacks_are_left_out() -> None:
    tokens = [token for token in TOKENS if token != BYTES[4]]
    lacking = vocabulary.Vocabulary(tokens, MERGES, KINDS)
    assert lacking.decode(lacking.encode("a\x04b")) == "ab"


def test_a_very_long_word_is_encoded_too() -> None:
    assert ids_of("aa") * 20_000 == VOCABULARY.encode("a" * 40_000)


# --- the network


def weights(seed: int = 1, **extra: Any) -> Any:
    """Random tensors of a small llama, by their names in the file."""
    random = np.random.default_rng(seed)

    def matrix(rows: int, columns: int) -> Any:
        return random.normal(0, columns**-0.5, (rows, columns)).astype(np.float32)

    def norm() -> Any:
        return random.uniform(0.5, 1.5, WIDTH).astype(np.float32)

    tensors = {"token_embd.weight": 2 * matrix(len(TOKENS), WIDTH), "output_norm.weight": norm()}
    for block in range(BLOCKS):
        tensors |= {
            f"blk.{block}.{name}.weight": tensor
            for name, tensor in {
                "attn_norm": norm(),
                "ffn_norm": norm(),
                "attn_q": 2 * matrix(HEADS * LENGTH, WIDTH),
                "attn_k": 2 * matrix(KV_HEADS * LENGTH, WIDTH),
                "attn_v": matrix(KV_HEADS * LENGTH, WIDTH),
                "attn_output": matrix(WIDTH, HEADS * LENGTH),
                "ffn_gate": matrix(HIDDEN, WIDTH),
                "ffn_up": matrix(HIDDEN, WIDTH),
                "ffn_down": matrix(WIDTH, HIDDEN),
            }.items()
        }
    return tensors | extra


def write_model(
    path: Path,
    tensors: dict[str, Any],
    architecture: str = "llama",
    tokenizer: str = "gpt2",
    quantisation: Any = None,
    more: Any = (),
) -> Path:
    """A GGUF file with the tensors; `more` are (method of the writer, value) pairs."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(BLOCKS)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(EPSILON)
    writer.add_rope_dimension_count(LENGTH)
    writer.add_rope_freq_base(ROPE_BASE)
    writer.add_tokenizer_model(tokenizer)
    writer.add_token_list(TOKENS)
    writer.add_token_types(KINDS)
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(EOS)
    for method, value in more:
        getattr(writer, method)(value)
    for name, tensor in tensors.items():
        if quantisation is not None and tensor.ndim == 2:
            writer.add_tensor(name, gguf.quantize(tensor, quantisation), raw_dtype=quantisation)
        else:
            writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The path of a small model with random weights."""
    return write_model(tmp_path_factory.mktemp("model") / "Tiny-Llama.Q8_0.gguf", weights())


def naive_norm(vector: Any, weight: Any) -> Any:
    return vector / np.sqrt(np.mean(vector**2) + EPSILON) * weight


def naive_rope(vector: Any, position: int, factors: Any) -> Any:
    """Pairs of neighbours, turned by the position times their frequency."""
    turned = vector.copy()
    for pair in range(LENGTH // 2):
        angle = position * ROPE_BASE ** (-2 * pair / LENGTH) / factors[pair]
        x, y = vector[2 * pair], vector[2 * pair + 1]
        turned[2 * pair] = x * np.cos(angle) - y * np.sin(angle)
        turned[2 * pair + 1] = x * np.sin(angle) + y * np.cos(angle)
    return turned


def naive_attention(normed: Any, block: Any, factors: Any) -> Any:
    """(tokens, WIDTH): every head of every token by itself, in float64."""
    mixed = np.zeros((len(normed), HEADS * LENGTH))
    for token in range(len(normed)):
        for head in range(HEADS):
            mine = slice(head * LENGTH, (head + 1) * LENGTH)
            group = head // (HEADS // KV_HEADS)
            shared = slice(group * LENGTH, (group + 1) * LENGTH)
            query = naive_rope(block("attn_q")[mine] @ normed[token], token, factors)
            seen = range(token + 1)
            keys = [naive_rope(block("attn_k")[shared] @ normed[i], i, factors) for i in seen]
            scores = np.array([query @ key for key in keys]) / np.sqrt(LENGTH)
            shares = np.exp(scores) / np.exp(scores).sum()
            values = [block("attn_v")[shared] @ normed[i] for i in seen]
            mixed[token, mine] = sum(s * v for s, v in zip(shares, values, strict=True))
    return mixed @ block("attn_output").T


def naive_logits(tensors: dict[str, Any], ids: Sequence[int]) -> Any:
    """The logits after the ids, straight from the llama paper's formulas."""
    tensors = {name: tensor.astype(np.float64) for name, tensor in tensors.items()}
    factors = tensors.get("rope_freqs.weight", np.ones(LENGTH // 2))
    hidden = tensors["token_embd.weight"][ids]
    for number in range(BLOCKS):

        def block(name: str, number: int = number) -> Any:
            return tensors[f"blk.{number}.{name}.weight"]

        normed = np.array([naive_norm(row, block("attn_norm")) for row in hidden])
        hidden = hidden + naive_attention(normed, block, factors)
        normed = np.array([naive_norm(row, block("ffn_norm")) for row in hidden])
        gate, up = normed @ block("ffn_gate").T, normed @ block("ffn_up").T
        hidden = hidden + (gate / (1 + np.exp(-gate)) * up) @ block("ffn_down").T
    output = tensors.get("output.weight", tensors["token_embd.weight"])
    return output @ naive_norm(hidden[-1], tensors["output_norm.weight"])


IDS = [5, 200, 31, 31, 7, 90, 150, 2, 64, 100, 3]


def close(expected: Any, actual: Any, tolerance: float = 1e-4) -> None:
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


def test_the_logits_agree_with_a_naive_implementation(tiny: Path) -> None:
    close(naive_logits(weights(), IDS), network.Network(GGUFFile(tiny)).read(IDS))


def test_an_output_matrix_and_rope_factors_are_used_where_a_file_has_them(tmp_path: Path) -> None:
    tensors = weights(
        **{
            "output.weight": weights(seed=2)["token_embd.weight"],
            "rope_freqs.weight": np.array([1, 2, 4, 8], np.float32),
        }
    )
    path = write_model(tmp_path / "model.gguf", tensors)
    close(naive_logits(tensors, IDS), network.Network(GGUFFile(path)).read(IDS))


def test_a_quantised_file_is_dequantised(tmp_path: Path) -> None:
    kind = gguf.GGMLQuantizationType.Q4_1
    path = write_model(tmp_path / "model.gguf", weights(), quantisation=kind)
    rounded = {
        name: gguf.dequantize(gguf.quantize(tensor, kind), kind) if tensor.ndim == 2 else tensor
        for name, tensor in weights().items()
    }
    close(naive_logits(rounded, IDS), network.Network(GGUFFile(path)).read(IDS))


def test_reading_one_by_one_gives_the_logits_of_reading_at_once(tiny: Path) -> None:
    inline, one_by_one = (network.Network(GGUFFile(tiny)) for _ in range(2))
    for end in range(1, len(IDS) + 1):
        inline.rewind([])
        close(inline.read(IDS[:end]), one_by_one.read([IDS[end - 1]]))


def test_the_cache_grows_without_losing_what_it_holds(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "_FIRST_ROOM", 2)
    grown = network.Network(GGUFFile(tiny))
    for token in IDS[:-1]:
        grown.read([token])
    close(naive_logits(weights(), IDS), grown.read(IDS[-1:]))


def test_a_shared_beginning_is_kept_and_the_rest_forgotten(tiny: Path) -> None:
    net = network.Network(GGUFFile(tiny))
    net.read(IDS)
    other = [*IDS[:6], 9, 8]
    assert net.rewind(other) == 6
    close(naive_logits(weights(), other), net.read(other[6:]))


def test_the_last_id_of_a_known_prompt_is_read_again(tiny: Path) -> None:
    net = network.Network(GGUFFile(tiny))
    net.read(IDS)
    assert len(IDS) - 1 == net.rewind(IDS)


def test_more_tokens_than_the_context_are_refused(tiny: Path) -> None:
    with pytest.raises(ValueError, match="do not fit a context of 48"):
        network.Network(GGUFFile(tiny)).read([5] * (CONTEXT + 1))


# --- files that cannot be run


def test_another_architecture_is_refused_by_name(tmp_path: Path) -> None:
    path = write_model(tmp_path / "model.gguf", weights(), architecture="qwen2")
    with pytest.raises(UnusableModel, match="is qwen2; this runner supports only llama"):
        Llama.load(path)


def test_another_tokenizer_is_refused_by_name(tmp_path: Path) -> None:
    path = write_model(tmp_path / "model.gguf", weights(), tokenizer="llama")
    with pytest.raises(UnusableModel, match="tokenizer is llama; this runner supports only gpt2"):
        Llama.load(path)


def test_scaled_rope_is_refused(tmp_path: Path) -> None:
    scaling = ("add_rope_scaling_type", gguf.RopeScalingType.YARN)
    path = write_model(tmp_path / "model.gguf", weights(), more=[scaling])
    with pytest.raises(UnusableModel, match="RoPE scaling yarn"):
        Llama.load(path)


@pytest.mark.parametrize("length", [0, 7])
def test_hyperparameters_that_make_no_sense_are_refused(tmp_path: Path, length: int) -> None:
    path = write_model(tmp_path / "model.gguf", weights(), more=[("add_key_length", length)])
    with pytest.raises(UnusableModel, match="hyperparameters make no sense"):
        Llama.load(path)


def test_a_weight_that_would_be_ignored_is_refused(tmp_path: Path) -> None:
    bias = {"blk.0.attn_q.bias": np.zeros(WIDTH, np.float32)}
    path = write_model(tmp_path / "model.gguf", weights(**bias))
    with pytest.raises(UnusableModel, match=r"models with the tensor blk\.0\.attn_q\.bias"):
        Llama.load(path)


def test_a_missing_weight_is_named(tmp_path: Path) -> None:
    tensors = weights()
    del tensors["blk.1.ffn_up.weight"]
    with pytest.raises(UnusableModel, match=r"has no tensor blk\.1\.ffn_up\.weight"):
        Llama.load(write_model(tmp_path / "model.gguf", tensors))


def test_a_weight_of_another_shape_is_named(tmp_path: Path) -> None:
    tensors = weights(**{"output_norm.weight": np.zeros(7, np.float32)})
    with pytest.raises(UnusableModel, match=r"output_norm\.weight is \(7,\), expected \(32,\)"):
        Llama.load(write_model(tmp_path / "model.gguf", tensors))


@pytest.mark.parametrize("kept", [0, 3, 4, 20, 300, 3000, 0.5, 0.99])
def test_a_truncated_file_is_refused(tiny: Path, tmp_path: Path, kept: Any) -> None:
    whole = tiny.read_bytes()
    path = tmp_path / "model.gguf"
    path.write_bytes(whole[: int(kept * len(whole)) if kept < 1 else kept])
    with pytest.raises(UnusableModel, match="not a complete GGUF file .* download it again"):
        Llama.load(path)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_text("This is not a model. " * 50)
    with pytest.raises(UnusableModel, match="not a complete GGUF file"):
        Llama.load(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnusableModel, match="cannot be read"):
        Llama.load(tmp_path / "model.gguf")


# --- the rules of sampling

LOGITS = np.log(np.array([0.1, 0.5, 0.05, 0.35], np.float32))
OPEN: dict[str, Any] = {"temperature": 1.0, "top_k": 0, "top_p": 1.0}


def distribution(latest: Any = (), logits: Any = LOGITS, **settings: Any) -> Any:
    ids, probabilities = Sampler(**OPEN | settings).distribution(logits, latest)
    return ids.tolist(), [round(float(p), 4) for p in probabilities]


def test_with_all_limits_open_every_token_keeps_its_probability() -> None:
    assert distribution() == ([1, 3, 0, 2], [0.5, 0.35, 0.1, 0.05])


def test_top_k_keeps_the_best() -> None:
    assert distribution(top_k=2) == ([1, 3], [0.5882, 0.4118])


def test_top_p_keeps_the_smallest_set_that_reaches_it() -> None:
    assert distribution(top_p=0.8) == ([1, 3], [0.5882, 0.4118])
    assert distribution(top_p=0.86) == ([1, 3, 0], [0.5263, 0.3684, 0.1053])


def test_top_p_of_zero_keeps_the_best() -> None:
    assert distribution(top_p=0) == ([1], [1.0])


def test_min_p_keeps_what_reaches_its_share_of_the_best() -> None:
    assert distribution(min_p=0.3) == ([1, 3], [0.5882, 0.4118])


def test_a_low_temperature_sharpens_after_the_limits() -> None:
    assert distribution(temperature=0.5, top_p=0.8) == ([1, 3], [0.6711, 0.3289])


@pytest.mark.parametrize("greedy", [{"temperature": 0.0}, {"top_k": 1}])
def test_greedy_settings_leave_the_best_only(greedy: dict[str, Any]) -> None:
    assert distribution(**greedy) == ([1], [1.0])


def test_rep_pen_divides_positive_logits_and_multiplies_negative_ones() -> None:
    sampler = Sampler(rep_pen=2.0)
    penalised = sampler._penalised(np.array([4.0, -1.0, 3.0], np.float32), [0, 1, 1])
    assert penalised.tolist() == [2.0, -2.0, 3.0]


def test_rep_pen_reaches_back_as_far_as_its_range() -> None:
    logits = np.array([4.0, 4.0, 4.0], np.float32)
    near = Sampler(rep_pen=2.0, rep_pen_range=2)
    none = Sampler(rep_pen=2.0, rep_pen_range=0)
    assert near._penalised(logits, [0, 1, 2]).tolist() == [4.0, 2.0, 2.0]
    assert none._penalised(logits, [0, 1, 2]).tolist() == [4.0, 4.0, 4.0]


def test_a_payload_s_settings_are_taken_and_nulls_passed_over() -> None:
    payload = {"temperature": 1, "top_k": 40.0, "top_p": None, "rep_pen": 1.1, "typical": 1}
    assert Sampler(temperature=1.0, top_k=40, rep_pen=1.1) == Sampler.from_payload(payload)


def test_tokens_are_drawn_as_often_as_their_probability_says() -> None:
    sampler, generator = Sampler(**OPEN), np.random.default_rng(3)
    drawn = [sampler.choose(LOGITS, [], generator) for _ in range(4000)]
    close([0.1, 0.5, 0.05, 0.35], np.bincount(drawn) / 4000, 0.03)


# --- generating


class Script:
    """In the network's place: foretells the tokens of a text, whatever it reads."""

    shape = SimpleNamespace(context_length=40)

    def __init__(self, *foretold: Any) -> None:
        self.foretold = iter(foretold)
        self.has_read: list[int] = []

    def rewind(self, ids: Sequence[int]) -> Any:
        return 0

    def read(self, ids: Sequence[int]) -> Any:
        self.has_read.extend(ids)
        logits = np.zeros(len(TOKENS), np.float32)
        logits[next(self.foretold)] = 50
        return logits


def llama_of(words: vocabulary.Vocabulary, *foretold: int) -> Llama:
    """A model of these words that generates the given ids."""
    return Llama("scripted", words, cast("network.Network", Script(*foretold)))


def scripted(
    text: str, then: Sequence[int] = (EOS,), words: vocabulary.Vocabulary = VOCABULARY
) -> Llama:
    """A model that writes a text byte by byte, and then the given ids."""
    spelled = [TOKENS.index(BYTES[byte]) for byte in text.encode()]
    return llama_of(words, *spelled, *then)


def has_read(llama: Llama) -> list[int]:
    """The ids that a scripted model was given."""
    return cast("Script", llama._network).has_read


GREEDY = {"prompt": "hello", "max_length": 30, "temperature": 0}


def test_only_the_new_text_comes_back_without_the_end_of_turn() -> None:
    assert scripted("Good day").generate(GREEDY) == "Good day"


@pytest.mark.parametrize("control", ids_of(*CONTROLS))
def test_every_control_token_ends_the_text(control: int) -> None:
    assert scripted("Good", then=[control]).generate(GREEDY) == "Good"


def test_max_length_counts_tokens() -> None:
    assert scripted("Good day").generate(GREEDY | {"max_length": 4}) == "Good"


def test_characters_of_several_tokens_come_out_whole() -> None:
    assert scripted("é – 😀").generate(GREEDY) == "é – 😀"


def test_half_a_character_at_the_end_is_replaced() -> None:
    assert scripted("ab😀").generate(GREEDY | {"max_length": 4}) == "ab\ufffd"


@pytest.mark.parametrize(
    ("stops", "expected"),
    [
        (["\nUser:"], "Well.\nUser:"),
        (["ll", "zz"], "Well"),
        (["User", ".\n"], "Well.\n"),
        (["é"], "Well.\nUser: é"),
        (["", "never"], "Well.\nUser: é!"),
    ],
)
def test_the_text_ends_with_the_first_stop_string(stops: Any, expected: Any) -> None:
    assert expected == scripted("Well.\nUser: é!").generate(GREEDY | {"stop_sequence": stops})


def test_what_follows_a_stop_string_in_the_same_token_is_cut() -> None:
    llama = llama_of(VOCABULARY, *ids_of("hello", "o"))
    assert llama.generate(GREEDY | {"stop_sequence": ["el", "l"]}) == "hel"


def test_a_stop_string_with_half_a_surrogate_pair_matches_nothing() -> None:
    assert scripted("Well?").generate(GREEDY | {"stop_sequence": ["\ud83d"]}) == "Well?"


def test_a_stop_string_in_the_prompt_does_not_count() -> None:
    llama = llama_of(VOCABULARY, *ids_of("o", "hello"), EOS)
    assert llama.generate(GREEDY | {"stop_sequence": ["llo"], "prompt": "hell"}) == "ohello"


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        ({"max_length": 10}, 30),
        ({"max_length": 10, "max_context_length": 16}, 6),
        ({"max_length": 10, "max_context_length": 1024}, 30),
        ({"max_length": 9999}, 1),
    ],
)
def test_a_prompt_that_is_too_long_loses_its_beginning(
    payload: dict[str, Any], expected: Any
) -> None:
    prompt = "".join(chr(33 + i) for i in range(60))
    llama = scripted("")
    llama.generate(GREEDY | {"prompt": prompt} | payload)
    assert prompt[-expected:] == VOCABULARY.decode(has_read(llama))


def test_bos_comes_first_where_the_model_wants_it_even_if_the_prompt_is_cut() -> None:
    words = vocabulary.Vocabulary(TOKENS, MERGES, KINDS, bos=0, eos=EOS, add_bos=True)
    llama = scripted("", words=words)
    llama.generate(GREEDY | {"prompt": "x" * 99})
    assert [0, *ids_of("x") * 9] == has_read(llama)


def test_an_empty_prompt_is_answered_too() -> None:
    assert scripted("Hi").generate({"temperature": 0}) == "Hi"


def test_cancelling_ends_the_text_and_returns_its_beginning() -> None:
    answers = iter([False, False, False, True])
    assert scripted("Good day").generate(GREEDY, lambda: next(answers)) == "Goo"


def test_a_long_prompt_can_be_cancelled_between_batches(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "_TOKENS_AT_ONCE", 4)
    llama = Llama.load(tiny)
    assert llama.generate(GREEDY | {"prompt": "x" * 15}, lambda: True) == ""
    assert len(llama._network.tokens) == 4


def test_the_same_seed_draws_the_same_text(tiny: Path) -> None:
    first, second = (
        Llama("tiny", VOCABULARY, network.Network(GGUFFile(tiny)), np.random.default_rng(7))
        for _ in range(2)
    )
    payload = {"prompt": "hello", "max_length": 30, "temperature": 1.5}
    assert first.generate(payload) == second.generate(payload)


def test_a_known_beginning_is_not_read_again_and_changes_nothing(tiny: Path) -> None:
    known, fresh = Llama.load(tiny), Llama.load(tiny)
    known.generate(GREEDY | {"prompt": "hello world", "max_length": 5})
    longer = GREEDY | {"prompt": "hello world, and more", "max_length": 10}
    expected = fresh.generate(longer)
    already = known._network.rewind(VOCABULARY.encode("hello world, and more"))
    assert len(VOCABULARY.encode("hello world")) == already
    assert expected == known.generate(longer)


def test_threads_take_turns(tiny: Path) -> None:
    llama = Llama.load(tiny)
    prompts = ["hello", "something else", "1 2 3"]
    expected = [llama.generate(GREEDY | {"prompt": prompt}) for prompt in prompts]
    written = {}

    def generate(prompt: str) -> None:
        written[prompt] = llama.generate(GREEDY | {"prompt": prompt})

    threads = [threading.Thread(target=generate, args=[prompt]) for prompt in prompts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert expected == [written[prompt] for prompt in prompts]


# --- what a model says of itself


def test_a_model_tells_its_name_and_limits(tiny: Path) -> None:
    llama = Llama.load(tiny)
    said = (llama.name, llama.max_context_length, llama.max_length, llama.count_tokens("hello wo"))
    assert said == ("horde-proxy/Tiny-Llama", CONTEXT, 1024, 3)


@pytest.mark.parametrize(
    "file_name",
    [
        "My-Model.Q4_1.gguf",
        "My-Model-q4_k_m.gguf",
        "My-Model.IQ2_XXS.gguf",
        "My Model-F16.gguf",
        "My-Model.gguf",
        "My-Model",
    ],
)
def test_the_name_has_no_quantisation_and_no_spaces(file_name: str, tmp_path: Path) -> None:
    assert model._model_name(tmp_path / file_name) == "My-Model"


def test_the_tags_are_chatml_where_the_vocabulary_has_them() -> None:
    assert scripted("").tags["INPUT"] == "<|im_start|>user\n"


def test_the_tags_are_alpaca_otherwise() -> None:
    words = vocabulary.Vocabulary(["a"], [], [1])
    assert llama_of(words).tags["INPUT"] == "\n### Instruction:\n"
    assert model.CHATML_TAGS.keys() == model.ALPACA_TAGS.keys()
