"""Checkpoints, and warm starts from what fits."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pillow_mcquic.training.checkpoints import load_matching, load_objective, read_state
from pillow_mcquic.training.export import export
from pillow_mcquic.training.initial import new_objective
from pillow_mcquic.training.settings import Settings
from pillow_mcquic.training.train import train


@pytest.mark.parametrize("change", ["other size", "earlier version"])
def test_checkpoint_of_another_model_says_what_to_do(
    change: str, settings: Settings, photos: Path, checkpoint: Path, tmp_path: Path
) -> None:
    path, state = tmp_path / "old.pt", torch.load(checkpoint, weights_only=True)
    name = "decoder.synthesis.output.weight"
    for which in ("objective", "live"):
        del state[which][name]
        if change == "other size":
            state[which][name] = torch.zeros(3, 3)
    torch.save(state, path)
    for use in (partial(train, settings, str(photos), path), partial(load_objective, path)):
        with pytest.raises(ValueError, match=rf"old.pt is of .* \(1 tensors .* {name}\); .* --start-from"):
            use()


def test_a_run_starts_from_weights_alone(checkpoint: Path, photos: Path, settings: Settings, tmp_path: Path) -> None:
    """All that a checkpoint's objective knows is in the weights file, up to rounding."""
    path = export(checkpoint, tmp_path, str(photos), val_folder=None, crops=4)
    from_checkpoint, from_weights = new_objective(settings), new_objective(settings)
    assert load_matching(from_checkpoint, read_state(checkpoint)) == []
    assert load_matching(from_weights, read_state(path)) == []
    for (name, a), b in zip(from_checkpoint.state_dict().items(), from_weights.state_dict().values(), strict=True):
        if not any(
            part in name for part in ("logits", "bias", "error_cost", "previews")
        ):  # tables are counted anew, biases of integer networks merged, previews fitted
            assert torch.allclose(a, b, rtol=1e-3, atol=2e-3), name
    embedding, quality = torch.randn(1, 96, 4, 4), torch.tensor([4.3])
    theirs, mine = (o.entropy_networks.hyper_network(1)(embedding, quality) for o in (from_checkpoint, from_weights))
    difference = (theirs - mine).abs()  # biases are rounded, and now and then an activation is then another
    assert difference.mean() < 0.005
    assert difference.max() < 0.1


def test_a_model_of_more_qualities_keeps_the_rows_it_had(checkpoint: Path, settings: Settings) -> None:
    more = dataclasses.replace(settings, model=dataclasses.replace(settings.model, qualities=12))
    objective, state = new_objective(more), read_state(checkpoint)
    before = objective.decoder.log_gain["1"].clone()
    assert "decoder.log_gain.1" in load_matching(objective, state)
    assert torch.equal(objective.decoder.log_gain["1"][:10], state["decoder.log_gain.1"])
    assert torch.equal(objective.decoder.log_gain["1"][10:], before[10:])


def test_blocks_added_to_a_model_change_nothing_at_first(
    checkpoint: Path, settings: Settings, photo: Image.Image
) -> None:
    deeper = dataclasses.replace(
        settings,
        model=dataclasses.replace(settings.model, synthesis_blocks_8=3),
        encoder=dataclasses.replace(settings.encoder, analysis_blocks_16=2),
    )
    state = read_state(checkpoint)
    same, grown = (new_objective(model) for model in (settings, deeper))
    for objective in (same, grown):
        load_matching(objective, state)
    pixels = torch.from_numpy(np.array(photo.crop((0, 0, 128, 128)))).permute(2, 0, 1)[None] / 255
    quality = torch.tensor([4.0])
    with torch.inference_mode():
        (before, bits, _), (after, other_bits, _) = same(pixels, quality), grown(pixels, quality)
    assert torch.equal(bits, other_bits)
    assert torch.equal(before, after)


def test_a_wider_model_keeps_the_channels_it_had(checkpoint: Path, settings: Settings) -> None:
    """Also where a weight holds several positions of each channel."""
    wider = dataclasses.replace(
        settings,
        model=dataclasses.replace(settings.model, synthesis_width_8=24),
        encoder=dataclasses.replace(settings.encoder, analysis_width_8=24),
    )
    old_analysis, old_synthesis = settings.encoder.analysis_width_8, settings.model.synthesis_width_8
    assert old_analysis < 24 > old_synthesis
    objective, state = new_objective(wider), read_state(checkpoint)
    load_matching(objective, state)
    merge = "encoder.analysis.merge.projection.weight"
    new, old = objective.state_dict()[merge], state[merge]
    assert torch.equal(new.unflatten(1, (4, 24))[..., :old_analysis], old.unflatten(1, (4, old_analysis)))
    for name in ("decoder.synthesis.expand.projection.weight", "decoder.synthesis.expand.projection.bias"):
        new, old = objective.state_dict()[name], state[name]
        assert torch.equal(new.unflatten(0, (4, 24))[:, :old_synthesis], old.unflatten(0, (4, old_synthesis)))


def test_a_bank_of_other_vectors_begins_anew(checkpoint: Path, settings: Settings) -> None:
    banks = list(settings.model.banks)
    assert banks[5].dim == 4
    banks[5] = dataclasses.replace(banks[5], groups=2 * banks[5].groups, dim=2)
    objective = new_objective(
        dataclasses.replace(settings, model=dataclasses.replace(settings.model, banks=tuple(banks)))
    )
    before, state = {n: t.clone() for n, t in objective.state_dict().items()}, read_state(checkpoint)
    partial = load_matching(objective, state)
    new = ("decoder.codebooks.5.codewords.0", "tables.5.logits.0", "entropy_networks.contexts.5.input.weight")
    for name in new:
        assert name in partial
        assert torch.equal(objective.state_dict()[name], before[name])
    for name in ("decoder.codebooks.4.codewords.0", "tables.6.logits.1", "encoder.analysis.klt"):
        assert name not in partial
        assert torch.equal(objective.state_dict()[name], state[name])
