"""Databases: SQLite in a file, or PostgreSQL.

`engine` opens one, `locking` lets one process at a time prepare it, `migrations` brings its tables
up to date. Tables are declared by the rooms that own them, as a `Schema`. Exports nothing, so that
`errors` can be imported without SQLAlchemy.
"""
