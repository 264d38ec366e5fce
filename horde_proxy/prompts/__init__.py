"""The language of models, pure: a chat becomes a prompt, and generated text becomes a message.

formats, format_rules    how each family writes its turns, and which family a name means
turns, fit               messages as turns, and as many of them as a worker has room for
answer, partial_answer   the message in a text, whole or growing by segments
constrained, guided      answers that must be calls or JSON: requested, or filled in leaf by leaf
tool_calls, json_schema  rooms of their own            lenient_json, tokens  what all of them use
"""
