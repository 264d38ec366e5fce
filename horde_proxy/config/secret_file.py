"""Secrets that a setting names a file for, such as one of systemd's `LoadCredential=`."""

from __future__ import annotations

from pathlib import Path


def read_secret_file(setting: str, path: str) -> str:
    """The text of the file, without blanks at its ends. Raises ValueError with the setting."""
    try:
        return Path(path).read_text().strip()
    except OSError as exc:
        raise ValueError(f"{setting} cannot be read: {exc.strerror}") from exc
