"""The error of settings that cannot be used."""


class ConfigError(Exception):
    """A setting that cannot be used; the message names it, its value and its source."""
