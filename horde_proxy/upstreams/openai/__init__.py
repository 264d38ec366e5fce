"""Servers that speak OpenAI's API, and nodes of the Open Compute Framework, which nearly do.

upstream.py sends and proxies, stream.py turns an event stream into chunks, errors.py tells what an
error says about the server and about the request. ocf.py is the second kind.
"""
