"""The command `mcq`: one module for each family of commands."""

from __future__ import annotations

from .main import main

__all__ = ["main"]
