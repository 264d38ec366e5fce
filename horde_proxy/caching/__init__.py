"""Values that are expensive to get, kept for a while.

A value that a background thread loads (`background`), a document with a copy on disk (`disk`),
documents and outages that several proxies share (`redis`), a value made from another (`derived`).
Nothing is exported here, because `disk` needs requests and `redis` an extra. The room knows
neither the horde nor what the values mean.
"""
