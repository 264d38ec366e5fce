"""Servers that speak OpenAI's API, and nodes of the Open Compute Framework, which nearly do.

upstream.py proxies: sending.py sends, redirects.py follows redirects within the server, decoding.py
unpacks what was compressed. answer_start.py finds an error at the start of a body; errors.py,
with error_signs.py, tells whose fault it is. Where a request is not proxied, stream.py reads the
answer: events.py its bytes, tidy.py makes legal chunks of what it says, with calls.py and texts.py.
model_list.py makes a list of models safe, native_apis.py reads what servers tell of their models
outside OpenAI's API, described_models.py puts that into the list, and kept_models.py keeps it while
the server's machine sleeps. ocf.py is the second kind.
"""
