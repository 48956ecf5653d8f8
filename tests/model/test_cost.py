"""What the shipped model costs."""

from __future__ import annotations

from pillow_mcquic import weights_files
from pillow_mcquic.engine.bundle import EncoderBundle
from pillow_mcquic.model.cost import measure


def test_shipped_model_keeps_its_budget(encoder_bundle: EncoderBundle) -> None:
    """Parameters, kMAC/pixel and bytes; docs/log/design-notes.md says why it is what it is."""
    decoder = encoder_bundle.decoder
    cost = measure(decoder.model, encoder_bundle.model, decoder.entropy_model)
    assert cost.parameters <= 12e6
    assert 20 < cost.analysis <= 21
    assert 9.9 < cost.decode < 10
    assert weights_files.find_decoder(decoder.id).stat().st_size < 14.8e6
    assert weights_files.find_encoder(decoder.id).stat().st_size < 11.4e6
