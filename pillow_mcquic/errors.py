"""What can be wrong with a file."""

from __future__ import annotations


class NotMcqError(ValueError):
    """The bytes do not begin with the magic of `.mcq` files."""


class BadFileError(OSError):
    """An `.mcq` or weights file that cannot be read; the message says why, and what to do."""


class DamagedStreamError(ValueError):
    """The bytes are not a code stream made with these tables."""
