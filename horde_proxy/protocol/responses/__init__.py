"""OpenAI's Responses API, pure: a body in, a question for the pipeline; chunks in, events out.

request.py reads a body, items.py its input, tools.py its tools: question.py is what they make.
events.py and object.py write the answer, output.py its items, failures.py its failure. calls.py is
for both: the calls of each kind of tool. Source: POST /v1/responses in OpenAI's OpenAPI
description, and what clients were seen to send. Exports nothing: each module is imported by its own
name.
"""
