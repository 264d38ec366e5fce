"""The back of the proxy: every kind of upstream, behind one contract (base.py).

An upstream takes a neutral request and yields Accepted, Waitings and OpenAI's chunks. Some can also
proxy a call unchanged (proxying.py). Which upstream gets a request is the router's matter, what a
client sees of it the front's. kinds.py is the registry: a new kind is one module and one line.

Exports nothing: the horde's modules take a fifth of the memory of a proxy that has no horde.
"""
