"""The error of every database, in a module that does not import SQLAlchemy."""

from __future__ import annotations


class DatabaseError(Exception):
    """The database failed or refused. The message says why, and never shows the password."""
