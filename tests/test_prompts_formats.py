"""The chat formats, against literal prompts: system, two exchanges, and a prefilled answer."""

from __future__ import annotations

import pytest

from horde_proxy.prompts.formats import FORMATS, Turn, neutralise, render

ROLES = {
    "placeholders": None,
    "chatml": "assistant",
    "mistral-v1": None,
    "mistral-v7": None,
    "llama2": None,
    "llama3": "assistant",
    "alpaca": None,
    "vicuna": "ASSISTANT",
    "metharme": "model",
    "gemma": "model",
    "gemma4": "model",
    "command-r": "CHATBOT",
    "deepseek": "Assistant",
    "harmony": "assistant",
    "kimi": "assistant",
    "granite": "assistant",
    "openchat": "Assistant",
    "seed-oss": "assistant",
    "minimax": "ai",
    "jamba": "assistant",
    "dots": None,
    "plain": "Assistant",
}
CHAT = [Turn("system", "S"), Turn("user", "U"), Turn("assistant", "A"), Turn("user", "U2")]
EOS = "<｜end▁of▁sentence｜>"
ALPACA = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request."
)
HARMONY = (
    "<|start|>system<|message|>You are a helpful assistant.\nReasoning: low\n\n# Valid channels: "
    "analysis, commentary, final. Channel must be included for every message.<|end|>"
)
NO_THOUGHT = (
    "<|start|>assistant<|channel|>analysis<|message|>We can answer immediately.<|end|>"
    "<|start|>assistant<|channel|>final<|message|>"
)

# name: (the whole of CHAT up to where the model begins, what a prefilled P adds after that)
PROMPTS = {
    "placeholders": (
        "{{[SYSTEM]}}S{{[SYSTEM_END]}}{{[INPUT]}}U{{[INPUT_END]}}{{[OUTPUT]}}A{{[OUTPUT_END]}}"
        "{{[INPUT]}}U2{{[INPUT_END]}}{{[OUTPUT]}}",
        "P",
    ),
    "chatml": (
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n"
        "<|im_start|>assistant\nA<|im_end|>\n<|im_start|>user\nU2<|im_end|>\n"
        "<|im_start|>assistant\n",
        "P",
    ),
    "qwen3-nothink": (
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n"
        "<|im_start|>assistant\nA<|im_end|>\n<|im_start|>user\nU2<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n\n</think>\n\n",
        "P",
    ),
    "mistral-v1": (" [INST] S\n\nU [/INST] A</s> [INST] U2 [/INST]", " P"),
    "mistral-v3": ("[INST] S\n\nU[/INST] A</s>[INST] U2[/INST]", " P"),
    "mistral-v3-tekken": ("[INST]S\n\nU[/INST]A</s>[INST]U2[/INST]", "P"),
    "mistral-v7": (
        "[SYSTEM_PROMPT] S[/SYSTEM_PROMPT][INST] U[/INST] A</s>[INST] U2[/INST]",
        " P",
    ),
    "mistral-v7-tekken": (
        "[SYSTEM_PROMPT]S[/SYSTEM_PROMPT][INST]U[/INST]A</s>[INST]U2[/INST]",
        "P",
    ),
    "llama2": ("[INST] <<SYS>>\nS\n<</SYS>>\n\nU [/INST] A </s>[INST] U2 [/INST]", " P"),
    "llama3": (
        "<|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nU<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nA<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nU2<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        "P",
    ),
    "llama4": (
        "<|header_start|>system<|header_end|>\n\nS<|eot|>"
        "<|header_start|>user<|header_end|>\n\nU<|eot|>"
        "<|header_start|>assistant<|header_end|>\n\nA<|eot|>"
        "<|header_start|>user<|header_end|>\n\nU2<|eot|>"
        "<|header_start|>assistant<|header_end|>\n\n",
        "P",
    ),
    "alpaca": (
        "S\n\n### Instruction:\nU\n\n### Response:\nA\n\n### Instruction:\nU2\n\n### Response:\n",
        "P",
    ),
    "vicuna": ("S\n\nUSER: U\nASSISTANT: A</s>\nUSER: U2\nASSISTANT:", " P"),
    "metharme": ("<|system|>S<|user|>U<|model|>A<|user|>U2<|model|>", "P"),
    "gemma": (
        "<start_of_turn>user\nS\n\nU<end_of_turn>\n<start_of_turn>model\nA<end_of_turn>\n"
        "<start_of_turn>user\nU2<end_of_turn>\n<start_of_turn>model\n",
        "P",
    ),
    "gemma4": (
        "<|turn>system\nS<turn|>\n<|turn>user\nU<turn|>\n<|turn>model\nA<turn|>\n"
        "<|turn>user\nU2<turn|>\n<|turn>model\n",
        "P",
    ),
    "phi3": (
        "<|system|>\nS<|end|>\n<|user|>\nU<|end|>\n<|assistant|>\nA<|end|>\n"
        "<|user|>\nU2<|end|>\n<|assistant|>\n",
        "P",
    ),
    "phi4": (
        "<|im_start|>system<|im_sep|>S<|im_end|><|im_start|>user<|im_sep|>U<|im_end|>"
        "<|im_start|>assistant<|im_sep|>A<|im_end|><|im_start|>user<|im_sep|>U2<|im_end|>"
        "<|im_start|>assistant<|im_sep|>",
        "P",
    ),
    "phi4-mini": (
        "<|system|>S<|end|><|user|>U<|end|><|assistant|>A<|end|><|user|>U2<|end|><|assistant|>",
        "P",
    ),
    "command-r": (
        "<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>S<|END_OF_TURN_TOKEN|>"
        "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>U<|END_OF_TURN_TOKEN|>"
        "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>A<|END_OF_TURN_TOKEN|>"
        "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>U2<|END_OF_TURN_TOKEN|>"
        "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
        "P",
    ),
    "deepseek-v2": (
        f"S\n\nUser: U\n\nAssistant: A{EOS}User: U2\n\nAssistant:",
        " P",
    ),
    "deepseek": (f"S\n\n<｜User｜>U<｜Assistant｜>A{EOS}<｜User｜>U2<｜Assistant｜>", "P"),
    "glm4": ("<|system|>\nS<|user|>\nU<|assistant|>\nA<|user|>\nU2<|assistant|>\n", "P"),
    "harmony": (
        HARMONY + "<|start|>developer<|message|># Instructions\n\nS\n\n<|end|>"
        "<|start|>user<|message|>U<|end|><|start|>assistant<|channel|>final<|message|>A<|end|>"
        "<|start|>user<|message|>U2<|end|>" + NO_THOUGHT,
        "P",
    ),
    "kimi": (
        "<|im_system|>system<|im_middle|>S<|im_end|><|im_user|>user<|im_middle|>U<|im_end|>"
        "<|im_assistant|>assistant<|im_middle|>A<|im_end|><|im_user|>user<|im_middle|>U2<|im_end|>"
        "<|im_assistant|>assistant<|im_middle|>",
        "P",
    ),
    "granite": (
        "<|start_of_role|>system<|end_of_role|>S<|end_of_text|>\n"
        "<|start_of_role|>user<|end_of_role|>U<|end_of_text|>\n"
        "<|start_of_role|>assistant<|end_of_role|>A<|end_of_text|>\n"
        "<|start_of_role|>user<|end_of_role|>U2<|end_of_text|>\n"
        "<|start_of_role|>assistant<|end_of_role|>",
        "P",
    ),
    "zephyr": (
        "<|system|>\nS<|endoftext|>\n<|user|>\nU<|endoftext|>\n<|assistant|>\nA<|endoftext|>\n"
        "<|user|>\nU2<|endoftext|>\n<|assistant|>\n",
        "P",
    ),
    "tulu": (
        "<|system|>\nS\n<|user|>\nU\n<|assistant|>\nA<|end_of_text|>\n<|user|>\nU2\n"
        "<|assistant|>\n",
        "P",
    ),
    "openchat": (
        "S<|end_of_turn|>GPT4 Correct User: U<|end_of_turn|>GPT4 Correct Assistant: "
        "A<|end_of_turn|>GPT4 Correct User: U2<|end_of_turn|>GPT4 Correct Assistant:",
        " P",
    ),
    "seed-oss": (
        "<seed:bos>system\nS<seed:eos><seed:bos>user\nU<seed:eos><seed:bos>assistant\nA<seed:eos>"
        "<seed:bos>user\nU2<seed:eos><seed:bos>assistant\n",
        "P",
    ),
    "minimax": (
        "]~b]system\nS[e~[\n]~b]user\nU[e~[\n]~b]ai\nA[e~[\n]~b]user\nU2[e~[\n]~b]ai\n",
        "P",
    ),
    "jamba": (
        "<|bom|><|system|> S<|eom|><|bom|><|user|> U<|eom|><|bom|><|assistant|> A<|eom|>"
        "<|bom|><|user|> U2<|eom|><|bom|><|assistant|>",
        " P",
    ),
    "dots": (
        "<|system|>S<|endofsystem|><|userprompt|>U<|endofuserprompt|><|response|>A"
        "<|endofresponse|><|userprompt|>U2<|endofuserprompt|><|response|>",
        "P",
    ),
    "rwkv": ("S\n\nUser: U\n\nAssistant: A\n\nUser: U2\n\nAssistant:", " P"),
    "plain": ("S\n\nUser: U\nAssistant: A\nUser: U2\nAssistant:", " P"),
}

STOPS = {
    "placeholders": ("{{[INPUT]}}", "{{[OUTPUT]}}", "{{[INPUT_END]}}", "{{[OUTPUT_END]}}"),
    "chatml": ("<|im_end|>", "<|im_start|>"),
    "mistral-v1": ("</s>", "[INST]"),
    "mistral-v7-tekken": ("</s>", "[INST]", "[SYSTEM_PROMPT]"),
    "llama3": ("<|eot_id|>", "<|start_header_id|>", "<|end_of_text|>"),
    "alpaca": ("### Instruction:", "### Response:", "</s>"),
    "vicuna": ("USER:", "</s>"),
    "metharme": ("<|user|>", "<|system|>", "</s>"),
    "gemma": ("<end_of_turn>", "<start_of_turn>"),
    "deepseek": (EOS, "<｜User｜>"),
    "harmony": ("<|return|>", "<|end|>", "<|start|>user"),
    "plain": ("\nUser:",),
}


def test_every_format_has_a_literal_expectation() -> None:
    assert set(PROMPTS) == set(FORMATS)


@pytest.mark.parametrize("name", PROMPTS)
def test_a_chat_of_several_turns_becomes_the_formats_own_prompt(name: str) -> None:
    assert render(FORMATS[name], CHAT) == PROMPTS[name][0]


@pytest.mark.parametrize("name", PROMPTS)
def test_a_prefilled_answer_stays_open(name: str) -> None:
    prompt, added = PROMPTS[name]
    assert render(FORMATS[name], [*CHAT, Turn("assistant", "P")]) == prompt + added


@pytest.mark.parametrize("name", PROMPTS)
def test_no_prompt_begins_with_a_bos(name: str) -> None:
    bos = ("<s>", "<bos>", "<|begin_of_text|>", "<BOS_TOKEN>", "<｜begin▁of▁sentence｜>", "[gMASK]")
    assert not render(FORMATS[name], CHAT).startswith(bos)


@pytest.mark.parametrize("name", STOPS)
def test_a_formats_end_tokens_are_its_stops(name: str) -> None:
    assert FORMATS[name].stops == STOPS[name]


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_has_stops(name: str) -> None:
    assert FORMATS[name].stops


def test_alpaca_without_a_system_message_has_its_own() -> None:
    expected = f"{ALPACA}\n\n### Instruction:\nU\n\n### Response:\n"
    assert render(FORMATS["alpaca"], [Turn("user", "U")]) == expected


def test_all_leading_system_messages_are_kept() -> None:
    turns = [Turn("system", "one"), Turn("system", "two"), Turn("user", "U")]
    expected = "<|im_start|>system\none\n\ntwo<|im_end|>\n"
    assert render(FORMATS["chatml"], turns).startswith(expected)


def test_a_late_system_message_keeps_its_place_where_the_format_has_such_turns() -> None:
    turns = [Turn("user", "U"), Turn("assistant", "A"), Turn("system", "S"), Turn("user", "U2")]
    assert "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU2" in render(
        FORMATS["chatml"], turns
    )


def test_a_late_system_message_joins_the_user_where_turns_alternate() -> None:
    turns = [Turn("user", "U"), Turn("assistant", "A"), Turn("system", "S"), Turn("user", "U2")]
    assert render(FORMATS["mistral-v3"], turns) == "[INST] U[/INST] A</s>[INST] S\n\nU2[/INST]"


def test_neighbouring_turns_of_one_role_are_merged_where_turns_alternate() -> None:
    turns = [
        Turn("user", "a"),
        Turn("user", "b"),
        Turn("assistant", "c"),
        Turn("assistant", "d"),
        Turn("user", "e"),
    ]
    assert render(FORMATS["mistral-v3"], turns) == "[INST] a\n\nb[/INST] c\n\nd</s>[INST] e[/INST]"


def test_neighbouring_turns_stay_apart_elsewhere() -> None:
    expected = (
        "<|im_start|>user\na<|im_end|>\n<|im_start|>user\nb<|im_end|>\n<|im_start|>assistant\n"
    )
    assert render(FORMATS["chatml"], [Turn("user", "a"), Turn("user", "b")]) == expected


def test_a_system_message_alone_becomes_a_user_turn_where_there_is_no_system() -> None:
    assert render(FORMATS["gemma"], [Turn("system", "S")]) == (
        "<start_of_turn>user\nS<end_of_turn>\n<start_of_turn>model\n"
    )


def test_llama3_trims_finished_turns_but_not_a_prefill() -> None:
    prompt = render(FORMATS["llama3"], [Turn("user", " U \n"), Turn("assistant", "P ")])
    assert prompt == (
        "<|start_header_id|>user<|end_header_id|>\n\nU<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nP "
    )


@pytest.mark.parametrize("name", FORMATS)
def test_placeholders_in_a_message_never_become_role_tags(name: str) -> None:
    prompt = render(FORMATS[name], [Turn("user", "a {{[INPUT]}} b {{[OUTPUT_END]}}")])
    assert "a {·{[INPUT]}} b {·{[OUTPUT_END]}}" in prompt


def test_neutralise_leaves_other_braces_alone() -> None:
    assert neutralise("{{x}} [INPUT] {[") == "{{x}} [INPUT] {["


@pytest.mark.parametrize("name", ROLES)
def test_the_role_of_the_model_is_read_in_its_tag(name: str) -> None:
    assert FORMATS[name].role == ROLES[name]
