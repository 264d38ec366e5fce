"""A text worker: pops jobs from any horde over HTTP and drives a backend.

It is a process of its own and knows nothing of the proxy's front.
"""
