"""What the model costs: parameters, and multiply-accumulates per pixel of analysis and of decoding."""

from __future__ import annotations

import dataclasses

import torch
import torch.nn as nn

from .class_networks import context_networks
from .layers import Block, Pointwise
from .network import Config, Model, at_phase

SIDE = 128  # of the picture that is counted; a multiple of 64, so nothing is padded


@dataclasses.dataclass(frozen=True)
class Cost:
    """Parameters of the networks and codebooks; thousands of multiply-accumulates per pixel."""

    parameters: int
    analysis: float
    means: float
    prior: float
    synthesis: float

    @property
    def decode(self) -> float:
        """Everything a decoder multiplies: means, prior and synthesis."""
        return self.means + self.prior + self.synthesis


def measure(config: Config) -> Cost:
    """Count while the model runs once on a small picture; codeword search is not counted."""
    with torch.inference_mode():
        model = Model(config)
        total = 0

        def count(module: nn.Module, _: object, out: torch.Tensor) -> None:
            nonlocal total
            if isinstance(module, Pointwise):
                total += module.weight.shape[1] * out[0].numel()
            elif isinstance(module, Block):  # its layers are not called as modules, but for the convolution
                weights = sum(layer.weight.numel() for layer in module.children() if isinstance(layer, Pointwise))
                total += weights * out[0, 0].numel()
            else:
                assert isinstance(module, nn.Conv2d)
                total += module.kernel_size[0] * module.kernel_size[1] * out[0].numel()

        for module in model.modules():
            if isinstance(module, (Pointwise, Block, nn.Conv2d)):
                module.register_forward_hook(count)

        def taken() -> float:
            nonlocal total
            result, total = total / SIDE**2 / 1000, 0
            return result

        quality = torch.ones(1)
        y1 = model.analyse(torch.zeros(1, 3, SIDE, SIDE), quality)
        y2, y3 = model.hyper_analyse(model.hyper_features(y1, quality), quality)
        linear = 768 * model.quantiser1.channels / 256 / 1000
        analysis = taken() + linear
        features, _ = model.predict_2(y3, quality, (y2.shape[2], y2.shape[3]))
        features = model.predict_1(y2, features, quality, (y1.shape[2], y1.shape[3]))
        model.mean_1(features)
        first = (1, model.quantiser1.channel_split[0], *y1.shape[2:])
        model.by_phase(lambda phase, _: y1[:, : first[1]][at_phase(phase)], first, quality)
        means = taken()
        model.synthesise(y1, features, quality)
        synthesis = taken() + linear
        width, n2, n3 = config.class_width, model.quantiser2.channels, model.quantiser3.channels
        contexts = context_networks(config)
        outputs = model.quantiser1.groups + config.context_width * len(contexts)
        per_position = {
            16: sum(layer.weight.numel() for network in contexts for layer in (network.enter, network.leave)),
            32: width * (n2 + n3 + 9 * width + 4 * outputs),
            64: width * (n3 + 9 * width + 4 * model.quantiser2.groups),
        }
        prior = sum(macs / step**2 for step, macs in per_position.items()) / 1000
        parameters = sum(p.numel() for p in model.parameters()) + sum(per_position.values())
    return Cost(parameters, analysis, means, prior, synthesis)
