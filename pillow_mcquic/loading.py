"""Decoders and encoders of models, loaded once a process; torch is imported here, when the first one is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import weights_files
from .bitstream import range_coder
from .engine import forks

if TYPE_CHECKING:
    import torch

    from .engine.bundle import DecoderBundle, EncoderBundle
    from .engine.decoder import Decoder
    from .engine.encoder import Encoder

loaded_decoders: dict[bytes, DecoderBundle] = {}
loaded_encoders: dict[bytes, EncoderBundle] = {}


def load_decoder(model: bytes, device: torch.device | str | None = None) -> Decoder:
    """The decoder of an id on a device, by default the configured one; its weights are read once per process.

    Raises OSError for weights that are not here, and ValueError for a device that is not.
    """
    with forks.lock:  # forks wait for what is imported and loaded
        import torch

        from .engine import bundle
        from .engine.decoder import Decoder
        from .engine.device import Device, keep_freed_memory

        range_coder.package()
        forks.prepare_thread_pool()
        # tensors made in a caller's inference mode could not take part in a refinement
        with torch.inference_mode(False):
            if model not in loaded_decoders:
                keep_freed_memory()
                loaded_decoders[model] = bundle.load_decoder(weights_files.find_decoder(model))
        return Decoder(loaded_decoders[model], Device.choose(device))


def load_encoder(device: torch.device | str | None = None) -> Encoder:
    """The encoder of the default model on a device; otherwise as `load_decoder`."""
    model = weights_files.default_id()
    decoder = load_decoder(model, device)
    with forks.lock:
        import torch

        from .engine import bundle
        from .engine.encoder import Encoder

        with torch.inference_mode(False):
            if model not in loaded_encoders:
                loaded_encoders[model] = bundle.load_encoder(weights_files.find_encoder(model), decoder.bundle)
        return Encoder(loaded_encoders[model], decoder.device)
