"""Tool calls: how a prompt presents the tools, and how calls are read from generated text.

reading       the entry: stages in order, each looking for one shape of call
marked        stage 1: calls behind a marker of a family, such as <tool_call>
unmarked      stages 2 to 4: a whole answer, an object in the text, a name at a line's start
*_calls       one grammar each: JSON objects, name{...}, Python, <function=...>, GLM's tags
mentions      whether a call is only quoted        arguments  fitting them to the tool's schema
instructions  the tools, and past calls and results, as prompts have them
"""
