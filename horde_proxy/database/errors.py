"""The error of every database. Does not import SQLAlchemy."""

from __future__ import annotations


class DatabaseError(Exception):
    """The database failed, or refused. The message says why, without its password."""
