"""Facts of AI-Horde's API, shared by the horde's client, the private horde and the worker.

Pure: no I/O, no clock, no Flask, and no decisions about what to do with a fact. Import the modules
one by one: `limits`, `kudos`, `refusals`, `rest`, `agents` and `names`.

"Contract" in the comments is AI-Horde's code at commit fbd5ed46 (version 5.1.5, API 2.5); paths
are relative to its `horde/`. "Capture" is an answer of such a server, kept in tests/data/captures.
"""
