"""Caches for values that are expensive to get.

`background`: a value that a background thread loads. `disk`: a document with a copy on disk.
`redis`: documents that several proxies share; `shared_texts`: short texts that they share. `notes`:
small facts that a restart does not forget. `derived`: a value made from other objects.
`lazy_thread`: a loop that the first request starts. Nothing is exported here, because `disk` needs
requests and `redis` an extra. This room knows neither the horde nor the meaning of the values.
"""
