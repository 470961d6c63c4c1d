"""Every network and operator gives the outputs and gradients that were recorded from the original code.

The manifests say all: what was built, with which arguments, and how close we must come. MAMBINO_GOLDEN
names other folders to read them from, separated as in PATH.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from mambino.models import build
from mambino.weights.convert import SOURCES, Source, load_state, recognise
from mambino.weights.convert.rules import renamed
from tests.golden_operators import as_tuple, find, spatial_axes
from tests.places import GOLDEN, SHARED

ROUNDINGS = 4


def folders() -> list[Path]:
    named = os.environ.get("MAMBINO_GOLDEN")
    if named:
        return [Path(part) for part in named.split(os.pathsep) if part]
    return [folder for folder in (GOLDEN, SHARED / "reference" / "golden") if (folder / "manifest.json").is_file()]


def cases(kind: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    for folder in folders():
        for case in json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["cases"]:
            if case["kind"] == kind:
                yield folder, case


def source_of(network: str) -> Source | None:
    return next((source for source in SOURCES if source.name == network), None)


def networks() -> list[Any]:
    return [
        pytest.param(folder, case, id=f"{folder.name}-{Path(case['file']).stem}") for folder, case in cases("network")
    ]


def operators() -> list[Any]:
    return [
        pytest.param(folder, case, sub, id=f"{folder.name}-{Path(case['file']).stem}-{sub['sub']}")
        for folder, case in cases("operator")
        for sub in case["subcases"]
    ]


def read(folder: Path, case: dict[str, Any]) -> dict[str, Tensor]:
    path = folder / case["file"]
    assert hashlib.sha256(path.read_bytes()).hexdigest() == case["sha256"], f"{path} is not the file recorded"
    return load_file(path)


def under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def numbered(tensors: dict[str, Tensor], name: str) -> list[Tensor]:
    if name in tensors:
        return [tensors[name]]
    parts = under(tensors, name + "/")
    return [parts[str(i)] for i in range(len(parts))]


def assert_within(actual: Tensor, expected: Tensor, rtol: float, atol: float, what: str) -> None:
    torch.testing.assert_close(
        actual.to(expected.dtype), expected, rtol=rtol, atol=atol, msg=lambda text: f"{what}: {text}"
    )


@pytest.mark.parametrize(("folder", "case"), networks())
def test_network_equals_the_original(folder, case):
    source = source_of(case["network"])
    assert source is not None, f"no network of ours is {case['network']}"
    recorded = read(folder, case)
    state = under(recorded, "state/")
    assert recognise(state) is source
    network = build(source.spec(case["ctor"])).eval()
    load_state(network, {key: value.float() for key, value in state.items()}, source)
    expected = numbered(recorded, "output")
    x = recorded["input"].requires_grad_(requires_grad=bool(case["grads"]))

    outputs = network.scales(x) if len(expected) > 1 else (network(x),)
    outputs = [source.original(y) for y in outputs]

    bound = case["tolerance"]
    assert len(outputs) == len(expected)
    for i, (actual, wanted) in enumerate(zip(outputs, expected, strict=True)):
        assert_within(actual, wanted, bound["rtol"], bound["atol"], f"output {i}")
    if case["grads"]:
        assert case["loss"] == "sum over outputs of mean(output**2)"
        sum(output.square().mean() for output in outputs).backward()
        check_gradients(case, source, network, x, under(recorded, "grad/"))


def check_gradients(case, source, network, x, expected):
    assert set(expected) == set(case["grads"])
    parameters = dict(network.named_parameters())
    floor = rounding(parameters[name].grad for name in parameters if parameters[name].grad is not None)
    for key, wanted in expected.items():
        actual = x.grad if key == "input" else parameters[renamed(key, source)].grad
        atol = max(case["tolerance"]["grad_atol_rel_to_absmax"] * float(wanted.abs().max()), floor)
        assert_within(actual, wanted, 0.0, atol, f"gradient of {key}")


@pytest.mark.parametrize(("folder", "case", "sub"), operators())
def test_operator_equals_the_original(folder, case, sub):
    made = find(case["network"], sub["sub"])
    assert made is not None, f"no operator of ours is {case['network']}: {sub['sub']}"
    make, rename = made
    recorded = under(read(folder, case), sub["sub"] + "/")
    inputs = {name: value.requires_grad_() for name, value in under(recorded, "in/").items()}
    module = make(sub["hyper"], spatial_axes(inputs)).eval()
    names = {key: translate(key, rename) for key in under(recorded, "state/")}
    module.load_state_dict({names[key]: value for key, value in under(recorded, "state/").items()}, strict=True)

    outputs = as_tuple(module(**inputs))

    bound = case["tolerance"]
    for i, (actual, wanted) in enumerate(zip(outputs, numbered(recorded, "out"), strict=True)):
        atol = bound["atol_rel_to_absmax"] * float(wanted.abs().max())
        assert_within(actual, wanted, bound["rtol"], atol, f"output {i}")
    expected = under(recorded, "grad/")
    assert bool(expected) == sub["grads"]
    if expected:
        cotangents = numbered(recorded, "w")
        sum((output * w).sum() for output, w in zip(outputs, cotangents, strict=True)).backward()
        known = {f"in:{name}": x for name, x in inputs.items()}
        parameters = dict(module.named_parameters())
        known |= {f"state:{key}": parameters[name] for key, name in names.items()}
        floor = rounding(expected.values())
        for key, wanted in expected.items():
            atol = max(bound["grad_atol_rel_to_absmax"] * float(wanted.abs().max()), floor)
            assert_within(known[key].grad, wanted, bound["grad_rtol"], atol, f"gradient of {key}")


def rounding(gradients: Iterable[Tensor]) -> float:
    """How far off a gradient may be that is zero in exact arithmetic, as of a bias before a normalisation.

    It is a sum whose terms cancel. They are as large as those of the other gradients, and each is rounded in every
    operation on its way: one on one processor lands at 1.2 times the spacing of float32, on another below it.
    """
    return ROUNDINGS * torch.finfo(torch.float32).eps * max(float(g.abs().max()) for g in gradients)


def translate(key: str, rename: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in rename:
        if re.search(pattern, key):
            return re.sub(pattern, replacement, key, count=1)
    return key


def test_some_cases_are_here():
    assert any(cases("network"))
    assert any(cases("operator"))
