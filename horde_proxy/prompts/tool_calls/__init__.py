"""Tool calls: how a prompt presents the tools, and how calls are read from generated text.

reading       the entry point: stages in order, each for one form of calls
marked        stage 1: calls after a marker of a family, such as <tool_call>
unmarked      stages 2 to 4: a whole answer, an object in the text, a name at the start of a line
*_calls       one grammar each: JSON objects, name{...}, Python, <function=...>, GLM's tags
mentions      whether a call is only quoted
arguments     fits arguments to the tool's schema
instructions  the tools, and past calls and results, as texts for a prompt
"""
