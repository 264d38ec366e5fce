"""The language of models, pure: a chat becomes a prompt, and generated text becomes a message.

formats, format_rules    how each family of models writes its turns, and the family of a name
tags                     the same tags in messages: broken up in a prompt, restored in an answer
turns, fit               messages as turns, and as many of them as a worker has room for
answer, partial_answer   the message in a text, in one piece or in segments
constrained, guided      answers that must be calls or JSON: requested, or filled in leaf by leaf
tool_calls, json_schema  sub-packages with their own overview
lenient_json, tokens     tools for all of them
"""
