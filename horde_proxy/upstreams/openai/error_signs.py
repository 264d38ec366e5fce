"""The signs by which servers' errors are told apart: words, codes and statuses. Tables only.

Each has an example of what a server sends; tests/test_upstreams_openai_errors.py has whole bodies.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

# The chat is too long, by an error's code, type or message. Not by "maximum length" or "too long"
# alone: "Expected a string with maximum length 64" is about a name.
OVERFLOW = re.compile(
    "|".join(
        (
            # OpenAI, Groq, Cerebras, llama-cpp-python: the code
            r"context_length_exceeded",
            # GitHub Models: the code
            r"tokens_limit_reached",
            # llama.cpp: the type
            r"exceed_context_size_error",
            # llama.cpp before it had a type, Ollama's runner: "the request exceeds the available
            # context size. try increasing the context size or enable context shift"
            r"exceeds? the available context size",
            # OpenAI, vLLM, Aphrodite, LiteLLM: "This model's maximum context length is 4096 ..."
            # text-generation-webui: "This model maximum context length is ..."
            # OpenRouter: "This endpoint's maximum context length is ..."
            # SGLang: "Requested token count exceeds the model's maximum context length of ..."
            # Mistral: "... tokens ..., too large for model with 32768 maximum context length"
            # xAI: "This model's maximum prompt length is 131072 but the request contains ..."
            r"maximum (?:context|prompt|model) length",
            # vLLM since 0.11: "You passed 9001 input tokens and requested 100 output tokens.
            # However, the model's context length is only 4096 tokens"
            # SGLang: "The input (9001 tokens) is longer than the model's context length (4096 ..."
            r"model'?s context length",
            # LM Studio: "Trying to keep the first 9001 tokens when context the overflows. However,
            # the model is loaded with context length of only 4096 tokens, which is not enough."
            r"loaded with context length of only",
            # LM Studio: "The number of tokens to keep from the initial prompt is greater than the
            # context length."
            # Ollama: "the input length exceeds the context length"
            # Anthropic: "input length and `max_tokens` exceed context limit: 190000 + 20000 > ..."
            # OpenAI's Responses API: "Your input exceeds the context window of this model."
            # llama-cpp-python: "Requested tokens (9001) exceed context window of 2048"
            r"(?:greater than|exceed(?:s|ed)?) (?:the |max(?:imum)? )*context"
            r" (?:length|limit|window)",
            # Ollama's cloud: "prompt too long; exceeded max context length by 12 tokens"
            # Anthropic: "prompt is too long: 210000 tokens > 200000 maximum"
            # Fireworks: "The prompt is too long: 9001, model maximum context length: 8191"
            # Bedrock: "Input is too long for requested model."
            r"(?:prompt|input) (?:is )?too long",
            # MiniMax: "context window exceeds limit"
            r"context window exceeds",
            # TGI, Together: "`inputs` tokens + `max_new_tokens` must be <= 4096. Given: ..."
            r"`inputs` tokens \+ `max_new_tokens` must be",
            # TGI: "`inputs` must have less than 1024 tokens. Given: 2000"
            r"`inputs` must have less than \d+ tokens",
            # Google: "The input token count (1200000) exceeds the maximum number of tokens allowed"
            r"exceeds the maximum number of tokens",
            # Vertex AI: "the input token count is 40000 but model only supports up to 32768"
            r"input token count is \d+ but",
            # TabbyAPI: "Prompt length 9001 is greater than max_seq_len 4096"
            r"is greater than max_seq_len",
            # Moonshot: "Your request exceeded model token limit: 8192"
            r"exceeded model token limit",
            # Cohere: "too many tokens: total number of tokens in the prompt cannot exceed 4081"
            r"number of tokens in the prompt cannot exceed",
        )
    ),
    re.IGNORECASE,
)
# 500: llama-cpp-python, Ollama and LM Studio give one for it. None: an error with a 200.
OVERFLOW_STATUSES = frozenset({400, 413, 422, 500, None})
# The key is wrong, with another status than 401. Google, 400: "API key not valid. Please pass a
# valid API key." xAI, 400: "Incorrect API key provided: ..."
WRONG_KEY = re.compile(r"api key not valid|incorrect api key|invalid_api_key", re.IGNORECASE)
# The account is used up, with another status than 402. OpenAI, 429: the code insufficient_quota.
# OpenAI's images, 400: billing_hard_limit_reached. Anthropic, 400: "Your credit balance is too low
# to access the Anthropic API." Google says "exceeded your current quota" for a minute's limit too.
USED_UP = re.compile(
    r"insufficient_quota|billing_hard_limit_reached|billing_not_active|credit balance is too low",
    re.IGNORECASE,
)
# A 403 for what the request says. OpenRouter: "Your chosen model requires moderation and your
# input was flagged for ...". Azure and others: content_filter, content_policy_violation.
MODERATION = re.compile(r"moderation|flagged|content.?(?:policy|filter)|guardrail", re.IGNORECASE)
# A 404 for the model, not for the path. OpenAI: model_not_found. vLLM: "The model `x` does not
# exist." Ollama: "model 'x' not found, try pulling it first". LM Studio: "No models loaded".
# TabbyAPI: "No models are currently loaded." OpenRouter: "No endpoints found for x". Azure:
# DeploymentNotFound. Anthropic: the type not_found_error with "model: x".
NO_MODEL = re.compile(
    r"model_not_found|\bmodels?\b.{0,300}(?:not found|not exist|not loaded|not available)"
    r"|no models? (?:is |are )?(?:currently )?(?:loaded|found|available)|no endpoints found"
    r"|DeploymentNotFound|not_found_error model: ",
    re.IGNORECASE | re.DOTALL,
)
# The same with a 400. DeepSeek: "Model Not Exist". OpenRouter: "x/y is not a valid model ID".
# Mistral: "Invalid model: x" of the type invalid_model. Together: model_not_available.
WRONG_MODEL = re.compile(
    r"model_not_(?:found|available)|model not exist|not a valid model|invalid.model"
    r"|no models? (?:is |are )?(?:currently )?loaded",
    re.IGNORECASE,
)
# LM Studio answers so, with status 200, for a path that it does not know.
NO_PATH = re.compile(r"unexpected endpoint or method", re.IGNORECASE)
# OCF, with any status: no connected peer serves the model.
NO_PROVIDER = re.compile(r"no provider found", re.IGNORECASE)
# What a server's error with a 200 calls a status: the types of OpenAI and Anthropic, vLLM's class
# names, and Google's. A number in "code" or "status" counts first.
STATUSES: Mapping[str, int] = {
    "invalid_request_error": 400,
    "badrequesterror": 400,
    "invalid_argument": 400,
    "failed_precondition": 400,
    "validation": 422,
    "authentication_error": 401,
    "invalid_api_key": 401,
    "unauthenticated": 401,
    "billing_error": 402,
    "permission_error": 403,
    "permission_denied": 403,
    "not_found_error": 404,
    "not_found": 404,
    "notfounderror": 404,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "insufficient_quota": 429,
    "resource_exhausted": 429,
    "overloaded_error": 503,
    "unavailable": 503,
}
# Statuses below 500 for the state of a server. 407: the proxy before it wants a login. 408: it was
# too busy to read the request. 424: TGI, when a generation fails. 425: too early. 498: Groq, when
# the flex tier is full.
SERVERS_STATE = frozenset({407, 408, 424, 425, 498})
REQUESTS_FAULT = frozenset({501, 505})
"""Statuses from 500 that another server would give as well: unknown method, HTTP version."""
