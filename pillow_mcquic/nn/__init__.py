"""Layers and kernels for images; nothing here knows of codes."""
