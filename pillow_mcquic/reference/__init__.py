"""The reference decoder: docs/format.md in numpy, section by section, to be read beside it.

It shares nothing with the engine but the range coder in plain Python and the kinds of errors: a second opinion on what
files say, and a way to open them without torch.  It is plain, not fast.

| section of docs/format.md | module |
|---|---|
| 1 File | `file` |
| 2 Codes, 3 Code stream | `codes` |
| 4 Classes | `classes` |
| 5 Pixels | `pixels` |
| 6 Exact squares | `exact` |
| 7 Weights | `weights` |
"""

from __future__ import annotations

from .decoder import decode

__all__ = ["decode"]
