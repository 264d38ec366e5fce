"""Where a horde's records are kept: in memory, or in a database (SQLite, PostgreSQL).

`base` is the interface, `kinds` lists the kinds of records, and `memory` and `sql` keep them. No
rule of the horde is here. Exports nothing, so that memory needs no SQLAlchemy.
"""
