"""The wire formats of the fronts, pure: reading a body, building completions, chunks and events.

generation_request.py and chunks.py are the neutral request and answer, which all fronts and
upstreams speak; chat.py and completions.py are OpenAI's two APIs around them, responses/ is its
newer one. Modules of their own (content_parts.py, tools.py, json_format.py) read what several APIs
have in common. Nothing here does I/O, knows Flask or reads a clock. Exports nothing: each module is
imported by its own name.
"""
