"""Bytes: the container, alpha, and the entropy coder.  No torch here."""
