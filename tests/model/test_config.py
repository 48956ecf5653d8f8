"""Configurations: JSON and back, banks in coding order."""

from __future__ import annotations

import dataclasses
import json

import pytest

from pillow_mcquic.bitstream.coding_order import Bank
from pillow_mcquic.model.config import Config, EncoderConfig


@pytest.mark.parametrize("config", [Config(), EncoderConfig()])
def test_a_configuration_survives_json(config: Config | EncoderConfig) -> None:
    assert type(config).from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize("kind", [Config, EncoderConfig])
def test_an_unknown_name_is_refused(kind: type[Config] | type[EncoderConfig]) -> None:
    with pytest.raises(ValueError, match="widht"):
        kind.from_dict({"widht": 3})


def test_banks_are_in_coding_order() -> None:
    banks = Bank(1, 2, 2, (4,)), Bank(2, 1, 2, (4,)), Bank(3, 1, 2, (4,))
    with pytest.raises(ValueError, match="levels 3, 2 and 1"):
        dataclasses.replace(Config(), banks=banks)
    config = dataclasses.replace(Config(), banks=(banks[2], banks[1], banks[0], banks[0]), linear_channels=3)
    assert [*config.banks_of(1)] == [2, 3]
    assert (config.channels(1), config.groups(1), config.network_channels) == (8, 4, 5)
    assert [config.banks_at(scale) for scale in (1, 8)] == [4, 4]
