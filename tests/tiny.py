"""A network of one layer, and bundles of it, for tests of what surrounds a network."""

from pathlib import Path

import torch
from torch import nn

from mambino.core.labels import Labels
from mambino.core.plan import Config, NetworkSpec, Normalise
from mambino.core.provenance import Provenance
from mambino.core.recipe import Recipe
from mambino.models import MODELS, build
from mambino.weights.bundle import Bundle, save


class Tiny(nn.Module):
    """A convolution of one voxel: the score of each class follows from the brightness of the voxel alone."""

    def __init__(self, *, dim: int, in_channels: int, out_channels: int, tied: bool = False) -> None:
        super().__init__()
        kind = (nn.Conv2d, nn.Conv3d)[dim - 2]
        self.layer = kind(in_channels, out_channels, 1)
        self.register_buffer("count", torch.tensor(3))
        if tied:
            self.other = self.layer
        self.divisor = (1,) * dim

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


def know(monkeypatch) -> None:
    """Let `build` know the network for the length of a test."""
    monkeypatch.setitem(MODELS, "tiny", "tests.tiny:Tiny")


def tiny_config(dim: int = 3, channels: int = 1, classes: int = 2, **changes) -> Config:
    values = {
        "dim": dim,
        "spacing": (1.0,) * dim,
        "normalise": (Normalise(scheme="none"),) * channels,
        "shape": (12,) * dim,
        "patch": (8,) * dim,
        "batch": 1,
        "network": NetworkSpec(name="tiny", dim=dim, in_channels=channels, out_channels=classes, options={}),
        "recipe": Recipe(),
        "crop": False,
    }
    return Config(**{**values, **changes})


def tiny_bundle(config: Config | None = None, seed: int = 0, **changes) -> Bundle:
    config = config or tiny_config()
    torch.manual_seed(seed)
    values = {
        "network": build(config.network).eval(),
        "config": config,
        "labels": Labels(names={f"organ {i}": (i,) for i in range(1, config.network.out_channels)}),
        "channels": tuple(f"channel {i}" for i in range(config.network.in_channels)),
        "provenance": Provenance(versions={"mambino": "0"}, dataset="balls", held_out=("a", "b")),
    }
    return Bundle(**{**values, **changes})


def bright_bundle(config: Config | None = None) -> Bundle:
    """Return a bundle whose network calls every voxel above 0.5 (mean of the channels) organ 1."""
    bundle = tiny_bundle(config)
    with torch.no_grad():
        bundle.network.layer.weight.fill_(0)
        bundle.network.layer.weight[1] = 1 / bundle.config.network.in_channels
        bundle.network.layer.bias.fill_(0)
        bundle.network.layer.bias[1] = -0.5
    return bundle


def saved(folder: Path, bundle: Bundle, name: str = "model") -> Path:
    return save(bundle, folder / f"{name}.safetensors")
