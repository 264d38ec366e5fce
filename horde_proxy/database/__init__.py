"""Databases: SQLite in a file, or PostgreSQL.

`engine` opens one, `postgresql` bounds what a lost server costs, `locking` lets one process at a
time prepare it, `migrations` brings its tables up to date, `files` copies and checks the files of
SQLite, `names` makes foreign names storable.
Tables are declared by the rooms that own them, as a `Schema`. Exports nothing, so that `errors` can
be imported without SQLAlchemy.
"""
