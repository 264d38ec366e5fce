"""OpenAI's vocabulary, pure: read a request; build completion, chunk, usage and SSE event.

Nothing here does I/O, knows Flask or reads a clock.
"""
