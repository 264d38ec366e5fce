"""Caches for values that are expensive to get.

`background`: a value that a background thread loads. `disk`: a document with a copy on disk.
`redis`: documents that several proxies share. `derived`: a value made from other objects. Nothing
is exported here, because `disk` needs requests and `redis` an extra. This room knows neither the
horde nor the meaning of the values.
"""
