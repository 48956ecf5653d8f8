"""pillow_mcquic: a learned image codec for Pillow.

After `import pillow_mcquic`, `.mcq` files open and save like any other image::

    Image.open("x.mcq")
    image.save("y.mcq", quality=3)

`encode` and `decode` do the same for numpy arrays and bytes.  Importing is cheap: torch is imported when the
first picture is encoded or decoded.
"""

from __future__ import annotations

from .codec import decode, encode
from .plugin import register
from .runtime import configure

__all__ = ["__version__", "configure", "decode", "encode"]
__version__ = "0.1.0"

register()
