"""Ollama's API as a front: its bodies in, its JSON objects and lines out. Pure.

A chat or a prompt of Ollama's becomes OpenAI's body, which `chat` and `completions` read: so both
fronts understand the same messages, tools and samplers, and endpoints get OpenAI's body. `requests`
does that with `messages` and `options`; `answers` writes the answer, `models` and `embeddings` the
rest. Source: docs/api.md and api/types.go of Ollama 0.21.
"""
