"""The error of a setting that cannot be used. It stands alone, since every module of `configs` raises it."""

from __future__ import annotations


class ConfigError(Exception):
    """A config cannot be used; the message names the file (or --set), the dotted key, and what was expected."""
