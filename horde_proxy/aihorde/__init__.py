"""Facts of AI-Horde's API, for its client, its private twin and its workers alike.

Pure: no I/O, no clock, no Flask, and no opinion about what to do with a fact. Each module is
imported by itself: `limits`, `kudos`, `refusals`, `rest`, `agents` and `names`.

"Contract" in the comments is AI-Horde's code at commit fbd5ed46 (version 5.1.5, API 2.5); paths
are relative to its `horde/`. "Capture" is an answer of such a server, kept in tests/data/captures.
"""
