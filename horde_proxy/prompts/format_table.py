"""The chat formats: how each family of models expects its turns. Data only.

The tags are from the models' own chat templates; llama.cpp's src/llama-chat.cpp (MIT) lists most of
them. No format begins with a BOS token, because every worker adds its own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal

Role = Literal["system", "user", "assistant"]

# "im", "start" and "assistant" in "<|im_start|>assistant".
_WORD = re.compile(r"[^\W\d_]+")
_NO_ROLES = ("Response", "response", "OUTPUT")
"""Words in tags of Alpaca, dots and koboldcpp, with which a letter or a listing may begin, too."""


@dataclass(frozen=True)
class Turn:
    """One message for the renderer, with tool calls and results as text.

    `is_neutral`: what clients and models wrote in it is neutralised already. The tags that it has
    are ours, as those around a tool result are.
    """

    role: Role
    text: str
    is_neutral: bool = False


@dataclass(frozen=True)
class Format:
    """The tags before and after each role's text, and the `opening` of the model's own turn.

    Without `system`, the system text goes into the first user turn, between the `inline_system`
    tags. `preamble` begins each prompt; `default_system` is for chats without a system text.
    `trims`: texts lose their outer whitespace, as in the template. `alternates`: user and assistant
    must take turns, so neighbouring turns of a role are merged. `thinks`: models may write
    reasoning without an opening tag, which is in the prompt. `tokens`: tags of the family that are
    in none of these strings, such as its BOS. All of them are broken up in messages. `is_literal`:
    texts are prompts, not messages, and stay unchanged.
    """

    name: str
    user: tuple[str, str]
    assistant: tuple[str, str]
    opening: str
    stops: tuple[str, ...]
    system: tuple[str, str] | None = None
    inline_system: tuple[str, str] = ("", "\n\n")
    preamble: str = ""
    default_system: str = ""
    trims: bool = False
    alternates: bool = False
    thinks: bool = False
    tokens: tuple[str, ...] = ()
    is_literal: bool = False

    @property
    def strings(self) -> tuple[str, ...]:
        """All strings of the format in which there are tags."""
        pairs = (self.user, self.assistant, self.system or self.inline_system)
        inner = (string for pair in pairs for string in pair)
        return (*inner, self.preamble, *self.stops, *self.tokens)

    @property
    def role(self) -> str | None:
        """The model's own role: the first word of its tag that the user's tag lacks, if any.

        "assistant" in <|im_start|>assistant, "CHATBOT" in <|CHATBOT_TOKEN|>, "ai" in ]~b]ai.
        """
        others = {*_WORD.findall(self.user[0]), *_NO_ROLES}
        return next((word for word in _WORD.findall(self.assistant[0]) if word not in others), None)


def _roles(
    name: str,
    pattern: tuple[str, str],
    names: tuple[str, str, str] = ("system", "user", "assistant"),
    *,
    stops: tuple[str, ...],
    opening: str | None = None,
    trims: bool = False,
    preamble: str = "",
    thinks: bool = False,
    tokens: tuple[str, ...] = (),
) -> Format:
    """A format in which only the role's name differs between tags: it replaces ROLE."""
    before, after = pattern
    system, user, assistant = ((before.replace("ROLE", role), after) for role in names)
    return Format(
        name,
        user,
        assistant,
        assistant[0] if opening is None else opening,
        stops,
        system=system,
        trims=trims,
        preamble=preamble,
        thinks=thinks,
        tokens=tokens,
    )


_MISTRAL_STOPS = ("</s>", "[INST]")
_MISTRAL_SYSTEM_STOPS = ("</s>", "[INST]", "[SYSTEM_PROMPT]")
_DEEPSEEK_END = "<｜end▁of▁sentence｜>"
# The tags of tools that Qwen and Hermes were trained on. We write them in most formats.
_HERMES_TOOLS = (
    "<tools>",
    "</tools>",
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
)
# In Mistral's tokenizers from v3 on. SentencePiece's <s> is the BOS of Llama 1 and 2 as well.
_MISTRAL_TOKENS = (
    "<s>",
    "[AVAILABLE_TOOLS]",
    "[/AVAILABLE_TOOLS]",
    "[TOOL_CALLS]",
    "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]",
    "[TOOL_CONTENT]",
    "[CALL_ID]",
    "[ARGS]",
)
_CHATML = _roles(
    "chatml",
    ("<|im_start|>ROLE\n", "<|im_end|>\n"),
    stops=("<|im_end|>", "<|im_start|>"),
    thinks=True,
    tokens=_HERMES_TOOLS,
)
# Alpaca's own default, with which the models were trained.
_ALPACA_SYSTEM = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request."
)
# The part of gpt-oss's template that no client writes: it announces the channels.
_HARMONY_SYSTEM = (
    "<|start|>system<|message|>You are a helpful assistant.\nReasoning: low\n\n"
    "# Valid channels: analysis, commentary, final. "
    "Channel must be included for every message.<|end|>"
)
_HARMONY_FINAL = "<|start|>assistant<|channel|>final<|message|>"

# koboldcpp since 1.94.1 replaces these tags in every prompt by its model's tags. The END tags are
# needed: without them, it leaves a system text open.
PLACEHOLDERS = Format(
    "placeholders",
    user=("{{[INPUT]}}", "{{[INPUT_END]}}"),
    assistant=("{{[OUTPUT]}}", "{{[OUTPUT_END]}}"),
    opening="{{[OUTPUT]}}",
    stops=("{{[INPUT]}}", "{{[OUTPUT]}}", "{{[INPUT_END]}}", "{{[OUTPUT_END]}}"),
    system=("{{[SYSTEM]}}", "{{[SYSTEM_END]}}"),
    thinks=True,
    # koboldcpp takes Alpaca's tags for a model that has no template.
    tokens=("{{[", "### Instruction:", "### Response:"),
)

# To add a format, add an entry here, and a rule for its models' names in format_rules. The name in
# brackets is the name of the same template in llama.cpp's src/llama-chat.cpp.
_ALL = (
    PLACEHOLDERS,
    # Qwen, Hermes, Yi, SmolLM, Nemotron 3 and most merges [chatml]
    _CHATML,
    # Qwen3 with its thought begun and ended already; koboldcpp's adapter NoThink
    replace(
        _CHATML,
        name="qwen3-nothink",
        thinks=False,
        opening="<|im_start|>assistant\n<think>\n\n</think>\n\n",
    ),
    # The Mistral templates differ only in whitespace, which matters because it is part of tokens.
    # Mistral 7B v0.1 and v0.2, Mixtral [mistral-v1]
    Format(
        "mistral-v1",
        user=(" [INST] ", " [/INST]"),
        assistant=(" ", "</s>"),
        opening="",
        stops=_MISTRAL_STOPS,
        alternates=True,
        tokens=_MISTRAL_TOKENS,
    ),
    # Mistral 7B v0.3, Small and Large of 2024 [mistral-v3]
    Format(
        "mistral-v3",
        user=("[INST] ", "[/INST]"),
        assistant=(" ", "</s>"),
        opening="",
        stops=_MISTRAL_STOPS,
        trims=True,
        alternates=True,
    ),
    # Mistral Nemo, Ministral [mistral-v3-tekken]
    Format(
        "mistral-v3-tekken",
        user=("[INST]", "[/INST]"),
        assistant=("", "</s>"),
        opening="",
        stops=_MISTRAL_STOPS,
        alternates=True,
    ),
    # Mistral Large 2411: the first with a system turn [mistral-v7]
    Format(
        "mistral-v7",
        user=("[INST] ", "[/INST]"),
        assistant=(" ", "</s>"),
        opening="",
        stops=_MISTRAL_SYSTEM_STOPS,
        system=("[SYSTEM_PROMPT] ", "[/SYSTEM_PROMPT]"),
        alternates=True,
    ),
    # Mistral Small 3, Magistral, Devstral and their fine-tunes of 24B [mistral-v7-tekken]
    Format(
        "mistral-v7-tekken",
        user=("[INST]", "[/INST]"),
        assistant=("", "</s>"),
        opening="",
        stops=_MISTRAL_SYSTEM_STOPS,
        system=("[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"),
        alternates=True,
    ),
    # Llama 2 chat: the system text is in the first user turn [llama2-sys]
    Format(
        "llama2",
        user=("[INST] ", " [/INST]"),
        assistant=(" ", " </s>"),
        opening="",
        stops=_MISTRAL_STOPS,
        inline_system=("<<SYS>>\n", "\n<</SYS>>\n\n"),
        alternates=True,
    ),
    # Llama 3 to 3.3 [llama3]
    _roles(
        "llama3",
        ("<|start_header_id|>ROLE<|end_header_id|>\n\n", "<|eot_id|>"),
        stops=("<|eot_id|>", "<|start_header_id|>", "<|end_of_text|>"),
        trims=True,
    ),
    # Llama 4 Scout and Maverick [llama4]
    _roles(
        "llama4",
        ("<|header_start|>ROLE<|header_end|>\n\n", "<|eot|>"),
        stops=("<|eot|>", "<|header_start|>"),
        trims=True,
    ),
    # Stanford Alpaca, and most fine-tunes of Llama 2, 13B and 20B. Its variants have different line
    # breaks; these are from koboldcpp's adapter
    Format(
        "alpaca",
        user=("### Instruction:\n", "\n\n"),
        assistant=("### Response:\n", "\n\n"),
        opening="### Response:\n",
        stops=("### Instruction:", "### Response:", "</s>"),
        system=("", "\n\n"),
        default_system=_ALPACA_SYSTEM,
    ),
    # Vicuna 1.1, Miqu [vicuna]
    Format(
        "vicuna",
        user=("USER: ", "\n"),
        assistant=("ASSISTANT: ", "</s>\n"),
        opening="ASSISTANT:",
        stops=("USER:", "</s>"),
        system=("", "\n\n"),
    ),
    # Pygmalion 2, Mythalion, Behemoth 123B v2: no line breaks and no end tags
    _roles(
        "metharme",
        ("<|ROLE|>", ""),
        ("system", "user", "model"),
        stops=("<|user|>", "<|system|>", "</s>"),
    ),
    # Gemma 2 and 3: no system turn, and the template raises if roles do not alternate [gemma]
    Format(
        "gemma",
        user=("<start_of_turn>user\n", "<end_of_turn>\n"),
        assistant=("<start_of_turn>model\n", "<end_of_turn>\n"),
        opening="<start_of_turn>model\n",
        stops=("<end_of_turn>", "<start_of_turn>"),
        trims=True,
        alternates=True,
        tokens=("<bos>", "<eos>"),
    ),
    # Gemma 4, from its own template
    _roles(
        "gemma4",
        ("<|turn>ROLE\n", "<turn|>\n"),
        ("system", "user", "model"),
        stops=("<turn|>", "<|turn>"),
    ),
    # Phi-3 and 3.5 [phi3]
    _roles("phi3", ("<|ROLE|>\n", "<|end|>\n"), stops=("<|end|>", "<|user|>")),
    # Phi-4 of 14B: ChatML's tags, without line breaks [phi4]
    _roles(
        "phi4",
        ("<|im_start|>ROLE<|im_sep|>", "<|im_end|>"),
        stops=("<|im_end|>", "<|im_start|>"),
    ),
    # Phi-4-mini: as Phi-3, without line breaks
    _roles("phi4-mini", ("<|ROLE|>", "<|end|>"), stops=("<|end|>", "<|user|>")),
    # Command R and Aya of Cohere [command-r]
    _roles(
        "command-r",
        ("<|START_OF_TURN_TOKEN|><|ROLE_TOKEN|>", "<|END_OF_TURN_TOKEN|>"),
        ("SYSTEM", "USER", "CHATBOT"),
        stops=("<|END_OF_TURN_TOKEN|>", "<|START_OF_TURN_TOKEN|>"),
        tokens=("<BOS_TOKEN>", "<EOS_TOKEN>"),
    ),
    # DeepSeek V2 and its Lite [deepseek2]
    Format(
        "deepseek-v2",
        user=("User: ", "\n\n"),
        assistant=("Assistant: ", _DEEPSEEK_END),
        opening="Assistant:",
        stops=(_DEEPSEEK_END, "User:"),
        system=("", "\n\n"),
    ),
    # DeepSeek V2.5, V3 and R1, full-width bars and all [deepseek3]
    Format(
        "deepseek",
        user=("<｜User｜>", ""),
        assistant=("<｜Assistant｜>", _DEEPSEEK_END),
        opening="<｜Assistant｜>",
        stops=(_DEEPSEEK_END, "<｜User｜>"),
        system=("", "\n\n"),
        thinks=True,
    ),
    # GLM-4 to 4.7; koboldcpp adds its [gMASK]<sop> itself, as a BOS [chatglm4]
    _roles(
        "glm4",
        ("<|ROLE|>\n", ""),
        stops=("<|user|>", "<|observation|>", "<|system|>", "<|endoftext|>"),
        thinks=True,
        tokens=("[gMASK]", "<sop>", "<eop>"),
    ),
    # gpt-oss: the opening ends the analysis and begins the final channel, as koboldcpp's adapter
    # does, so that no reasoning uses up the tokens [gpt-oss]
    Format(
        "harmony",
        user=("<|start|>user<|message|>", "<|end|>"),
        assistant=(_HARMONY_FINAL, "<|end|>"),
        opening="<|start|>assistant<|channel|>analysis<|message|>We can answer immediately.<|end|>"
        + _HARMONY_FINAL,
        stops=("<|return|>", "<|end|>", "<|start|>user"),
        system=("<|start|>developer<|message|># Instructions\n\n", "\n\n<|end|>"),
        preamble=_HARMONY_SYSTEM,
    ),
    # Kimi K2: the tag names the role twice [kimi-k2]
    Format(
        "kimi",
        user=("<|im_user|>user<|im_middle|>", "<|im_end|>"),
        assistant=("<|im_assistant|>assistant<|im_middle|>", "<|im_end|>"),
        opening="<|im_assistant|>assistant<|im_middle|>",
        stops=("<|im_end|>", "<|im_user|>"),
        system=("<|im_system|>system<|im_middle|>", "<|im_end|>"),
        tokens=("[BOS]", "[EOS]", "[EOT]"),
    ),
    # IBM Granite 3 and 4 [granite]
    _roles(
        "granite",
        ("<|start_of_role|>ROLE<|end_of_role|>", "<|end_of_text|>\n"),
        stops=("<|end_of_text|>", "<|start_of_role|>"),
    ),
    # Zephyr and StableLM: </s> in Hugging Face's template, <|endoftext|> in llama.cpp's [zephyr]
    _roles(
        "zephyr",
        ("<|ROLE|>\n", "<|endoftext|>\n"),
        stops=("<|endoftext|>", "<|user|>", "</s>"),
    ),
    # Tulu of AllenAI, from its own template
    Format(
        "tulu",
        user=("<|user|>\n", "\n"),
        assistant=("<|assistant|>\n", "<|end_of_text|>\n"),
        opening="<|assistant|>\n",
        stops=("<|end_of_text|>", "<|user|>"),
        system=("<|system|>\n", "\n"),
    ),
    # OpenChat 3.5 [openchat]
    Format(
        "openchat",
        user=("GPT4 Correct User: ", "<|end_of_turn|>"),
        assistant=("GPT4 Correct Assistant: ", "<|end_of_turn|>"),
        opening="GPT4 Correct Assistant:",
        stops=("<|end_of_turn|>", "GPT4 Correct User:"),
        system=("", "<|end_of_turn|>"),
    ),
    # Seed-OSS of ByteDance [seed_oss]
    _roles(
        "seed-oss",
        ("<seed:bos>ROLE\n", "<seed:eos>"),
        stops=("<seed:eos>", "<seed:bos>"),
        tokens=("<seed:tool_call>", "</seed:tool_call>"),
    ),
    # MiniMax M2, as koboldcpp's adapter has it
    _roles(
        "minimax",
        ("]~b]ROLE\n", "[e~[\n"),
        ("system", "user", "ai"),
        stops=("[e~[", "]~b]"),
        thinks=True,
        tokens=("]~!b[", "<minimax:tool_call>", "</minimax:tool_call>"),
    ),
    # Jamba of AI21, as koboldcpp's adapter has it
    _roles(
        "jamba",
        ("<|bom|><|ROLE|> ", "<|eom|>"),
        stops=("<|eom|>", "<|bom|>"),
        opening="<|bom|><|assistant|>",
    ),
    # dots.llm1 [dots1]
    Format(
        "dots",
        user=("<|userprompt|>", "<|endofuserprompt|>"),
        assistant=("<|response|>", "<|endofresponse|>"),
        opening="<|response|>",
        stops=("<|endofresponse|>", "<|userprompt|>"),
        system=("<|system|>", "<|endofsystem|>"),
    ),
    # RWKV World [rwkv-world]
    Format(
        "rwkv",
        user=("User: ", "\n\n"),
        assistant=("Assistant: ", "\n\n"),
        opening="Assistant:",
        stops=("\n\nUser:",),
        system=("", "\n\n"),
    ),
    # For base models, which belong to no family and continue any dialogue
    Format(
        "plain",
        user=("User: ", "\n"),
        assistant=("Assistant: ", "\n"),
        opening="Assistant:",
        stops=("\nUser:",),
        system=("", "\n\n"),
    ),
)

RAW = Format("raw", user=("", ""), assistant=("", ""), opening="", stops=(), is_literal=True)
"""No format: for the prompts of /v1/completions, which are complete."""

FORMATS: dict[str, Format] = {format.name: format for format in _ALL}
