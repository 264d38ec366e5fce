"""Tool calls: how a prompt presents the tools, and how calls are read from generated text.

reading       the entry points: the calls of a text, and what of a growing text surely is content
markers       the tokenizer: markers of families, such as <tool_call>
scanning      one pass over a text, in which grammars read where a marker or a sign of them is
families      the registry of grammars; each family is a module, *_calls
mentions      the judge: which of these passages are calls, and which only mention one
arguments     fits arguments to the tool's schema
instructions  the tools, and past calls and results, as texts for a prompt
"""
