"""The language of models, pure: a chat becomes a prompt, and generated text becomes a message.

formats, format_rules    how each family of models writes its turns, and the family of a name
tags                     the same tags in messages: broken up in a prompt, restored in an answer
turns, fit               messages as turns, and as many of them as a worker has room for
diet                     what messages and tools can lose before a turn is left out
answer, partial_answer   the message in a text, in one piece or in segments
constrained              requests for answers that must be calls or JSON
structured_reading       and what the answers say: required_calls, json_values, schema_matching
guided                   what is missing, leaf by leaf: leaf_prompts requests, leaf_texts reads
tool_calls, json_schema  sub-packages with their own overview
lenient_json, tokens     tools for all of them
"""
