"""Small cases, networks and plans for the tests of training."""

import numpy as np
import torch
from torch import nn

from mambino.core.labels import Labels
from mambino.core.plan import Config, NetworkSpec, Normalise
from mambino.core.recipe import Recipe
from mambino.training.augmentation import augmentation
from mambino.training.loop import Course
from mambino.training.precision import Precision
from mambino.training.sampling import HeldCase, patches
from mambino.training.state import State, optimiser

TWO = Labels(names={"dark": (1,), "bright": (2,)})


def config(dim=2, patch=None, **changes):
    """Return a configuration for one channel and two structures."""
    recipe = Recipe(**{"rate": 1e-2, "epochs": 2, "steps": 4, "augmentation": "none"} | changes.pop("recipe", {}))
    unet = NetworkSpec(name="unet", dim=dim, in_channels=1, out_channels=3, options={"features": (4, 8)})
    spec = changes.pop("network", unet)
    patch = patch or (16,) * dim
    defaults = {"spacing": (1.0,) * dim, "normalise": (Normalise(scheme="zscore"),), "shape": patch, "batch": 2}
    return Config(**defaults | changes, dim=dim, patch=patch, network=spec, recipe=recipe)


def case(shape=(20, 18), seed=0, name=None):
    """Return a case with a dark box (1) beside a bright one (2) in noise."""
    random = np.random.default_rng(seed)
    labels = np.zeros(shape, np.int16)
    where = random.integers(2, 5)
    inner = (slice(where, where + 6),) * (len(shape) - 1)
    labels[(*inner, slice(2, 6))] = 1
    labels[(*inner, slice(8, 13))] = 2
    image = (random.normal(0, 0.2, shape) - 2.0 * (labels == 1) + 2.0 * (labels == 2)).astype(np.float32)
    locations = {n: np.argwhere(labels == n) for n in (1, 2)}
    return HeldCase(name or f"case_{seed}", shape, locations, image[None], labels)


class Toy(nn.Module):
    """Two convolutions; learns the toy cases in some ten steps."""

    def __init__(self, dim=2, out=3):
        super().__init__()
        conv = {2: nn.Conv2d, 3: nn.Conv3d}[dim]
        self.first, self.last = conv(1, 8, 3, padding=1), conv(8, out, 1)

    def forward(self, x):
        return self.last(self.first(x).relu())


def fresh(recipe, seed=0, network=None):
    """Return a state at step 0."""
    torch.manual_seed(seed)
    network = network or Toy()
    average = type(network)()
    average.load_state_dict(network.state_dict())
    return State(network=network, average=average.requires_grad_(False), optimiser=optimiser(network, recipe))


def course(changes=None, cases=None, labels=TWO, seed=0, **more):
    """Return what a toy learns."""
    chosen = config(**changes or {})
    cases = cases or [case(seed=i) for i in range(4)]
    source = patches(cases, chosen, labels, augmentation(chosen, labels), seed)
    defaults = {"held_out": cases[:2], "epochs": 2, "precision": Precision(torch.device("cpu"))}
    return Course(**defaults | more, config=chosen, labels=labels, patches=source)
