"""Weights and checkpoints of before the tensors were named anew (commit 0751c21 and earlier) -> today's names.

python tools/rename_tensors.py 164865e9.safetensors FOLDER     # both files of the model, the same numbers
python tools/rename_tensors.py old.pt new.pt                   # for `mcq train --start-from`; optimisers begin anew
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

FIRST_OF_LEVEL_1 = 2  # place of level 1's first bank in coding order: levels 3 and 2 have one bank each
BANK_OF = {"3": 0, "2": 1}
RULES = [
    (r"analysis_8\.0\.", "encoder.analysis.input."),
    (r"analysis_8\.1\.", "encoder.analysis.blocks_8."),
    (r"analysis_down\.of_four", "encoder.analysis.merge.projection"),
    (r"analysis_gain_(\d+)\.log$", r"encoder.analysis.gain_\1.log_gain"),
    (r"analysis_16\.", "encoder.analysis.blocks_16."),
    (r"analysis_head", "encoder.analysis.output"),
    (r"hyper_analysis_(\d)\.0\.of_four", r"encoder.hyper_analysis.merge_\1.projection"),
    (r"hyper_analysis_(\d)\.1\.", r"encoder.hyper_analysis.block_\1."),
    (r"hyper_gain_(\d)\.log$", r"encoder.hyper_analysis.gain_\1.log_gain"),
    (r"hyper_head_(\d)", r"encoder.hyper_analysis.output_\1"),
    (r"features_(\d)\.0\.", r"decoder.means.input_\1."),
    (r"features_(\d)\.1\.", r"decoder.means.blocks_\1."),
    (r"features_(\d)\.2\.to_four", r"decoder.means.expand_\1.projection"),
    (r"features_gain_(\d)\.log$", r"decoder.means.gain_\1.log_gain"),
    (r"means_(\d)\.0\.", r"decoder.means.mean_block_\1."),
    (r"means_(\d)\.1\.", r"decoder.means.mean_output_\1."),
    (r"phase_means\.", "decoder.checkerboard.passes."),
    (r"synthesis_16\.0\.", "decoder.synthesis.input."),
    (r"synthesis_16\.1\.", "decoder.synthesis.blocks_16."),
    (r"synthesis_16\.2\.to_four", "decoder.synthesis.expand.projection"),
    (r"synthesis_gain_(\d+)\.log$", r"decoder.synthesis.gain_\1.log_gain"),
    (r"synthesis_8\.", "decoder.synthesis.blocks_8."),
    (r"synthesis_head", "decoder.synthesis.output"),
    (r"klt_analysis", "encoder.analysis.klt"),
    (r"klt_synthesis", "decoder.synthesis.klt"),
    (r"patch_mean", "decoder.synthesis.patch_mean"),
    (r"deviation", "decoder.deviation"),
    (r"log_gain_(\d)", r"decoder.log_gain.\1"),
    (r"previews\.", "decoder.previews.scales."),
]
INNER = [
    (r"\.enter\.", ".input."),
    (r"\.leave\.", ".output."),
    (r"\.neighbours\.", ".neighbourhood."),
    (r"\.gain\.log$", ".gain.log_gain"),
]


def place(level: str, bank: str) -> int:
    """Place of a bank in coding order."""
    return BANK_OF.get(level, FIRST_OF_LEVEL_1 + int(bank))


def network_name(old: str) -> str:
    """Name of a tensor of the networks and codebooks, without the old prefix."""
    if found := re.fullmatch(r"quantiser(\d)\.banks\.(\d+)\.(.*)", old):
        return f"decoder.codebooks.{place(found[1], found[2])}.{found[3].replace('words.', 'codewords.')}"
    for pattern, new in RULES:
        if re.match(pattern, old):
            old = re.sub(f"^{pattern}", new, old)
            break
    else:
        raise ValueError(f"unknown tensor {old}")
    return inner(old)


def inner(name: str) -> str:
    """The parts of layers."""
    for pattern, new in INNER:
        name = re.sub(pattern, new, name)
    return name


def file_name(old: str) -> str:
    """Name of a tensor of a weights file."""
    if old.startswith("net."):
        return network_name(old.removeprefix("net."))
    if found := re.fullmatch(r"tables\.(\d)\.(\d+)\.(\d+)", old):
        return f"tables.{place(found[1], found[2])}.{found[3]}"
    if found := re.fullmatch(r"prior\.embedding_(\d)\.(\d+)\.(\d+)", old):
        return f"entropy_model.codeword.{place(found[1], found[2])}.{found[3]}"
    old = old.replace("prior.network_", "entropy_model.hyper.").replace("prior.class_3", "entropy_model.class_3")
    old = re.sub(r"prior\.context_(\d+)", lambda m: f"entropy_model.context.{FIRST_OF_LEVEL_1 + int(m[1])}", old)
    return inner(old)


def checkpoint_name(old: str) -> str:
    """Name of a tensor of a checkpoint's objective."""
    if old.startswith("model."):
        return network_name(old.removeprefix("model."))
    if found := re.fullmatch(r"tables_(\d)\.banks\.(\d+)\.(.*)", old):
        return f"tables.{place(found[1], found[2])}.{found[3]}"
    old = re.sub(r"^class_network_(\d)", r"entropy_networks.hypers.\1", old)
    old = re.sub(r"^class_3$", "entropy_networks.class_3", old)
    old = re.sub(
        r"^context_networks\.(\d+)", lambda m: f"entropy_networks.contexts.{FIRST_OF_LEVEL_1 + 1 + int(m[1])}", old
    )
    return inner(old)


def configs(old: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings of a model -> those of its decoder and its encoder."""
    names = {
        "class_width": "hyper_network_width",
        "phase_width": "checkerboard_width",
        "means_expansion_1": "means_expansion",
    }
    encoder, decoder = {}, {}
    for name, value in old.items():
        if name.startswith("analysis_") or name in ("error_per_bit", "distortion"):
            encoder[name] = value
        elif not name.startswith("level"):
            decoder[names.get(name, name)] = value
    decoder["banks"] = [
        {"level": level, "groups": bank["groups"], "dim": bank["dim"], "stages": [k for k, _ in bank["stages"]]}
        for level in (3, 2, 1)
        for bank in old[f"level{level}"]
    ]
    return decoder, encoder


def rename_weights(source: Path, folder: Path) -> Path:
    """Write today's two files for a weights file of before."""
    from safetensors import safe_open

    from pillow_mcquic.engine import bundle
    from pillow_mcquic.model.config import Config, EncoderConfig

    with safe_open(source, "np") as file:
        metadata = file.metadata()
        arrays = {file_name(name): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    decoder, encoder = configs(json.loads(metadata["config"]))
    of_encoder = {n.removeprefix("encoder."): t for n, t in arrays.items() if n.startswith("encoder.")}
    of_decoder = {n.removeprefix("decoder."): t for n, t in arrays.items() if not n.startswith("encoder.")}
    settings = json.loads(metadata["settings"])
    model, model_encoder = configs(settings.pop("model"))
    text = json.dumps({**settings, "model": model, "encoder": model_encoder})
    return bundle.save(
        folder, (Config.from_dict(decoder), of_decoder), (EncoderConfig.from_dict(encoder), of_encoder), text
    )


def rename_checkpoint(source: Path, target: Path) -> None:
    """Write a checkpoint to start from for one of before."""
    import torch

    state = torch.load(source, weights_only=True, map_location="cpu")
    settings = json.loads(state["settings"])
    model, encoder = configs(settings.pop("model"))
    known = {name: value for name, value in settings.items() if name not in ("micro", "linear")}
    torch.save(
        {
            "objective": {checkpoint_name(name): tensor for name, tensor in state["objective"].items()},
            "settings": json.dumps({**known, "model": model, "encoder": encoder}),
        },
        target,
    )


def main() -> None:
    source, target = map(Path, sys.argv[1:])
    if source.suffix == ".safetensors":
        print(rename_weights(source, target))
    else:
        rename_checkpoint(source, target)


if __name__ == "__main__":
    main()
