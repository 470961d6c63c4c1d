"""A small valid file of every kind that is read and is no image: weights, plans, states, records, options."""

import hashlib
import json
import os
import random
import struct
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from mambino.cli.defaults import check_file
from mambino.core.best import Best, Contender, Gain, Member
from mambino.core.fingerprint import CaseFacts, Fingerprint, Intensity
from mambino.core.grid import pixel_grid
from mambino.core.image import Image
from mambino.core.options import PredictOptions, TrainOptions
from mambino.core.plan import Plan, read_plan
from mambino.core.records import read, write
from mambino.core.report import Report, Statistic
from mambino.evaluation.naming import find_model
from mambino.evaluation.page import read_curves
from mambino.imageio.dicom.concepts import read_codes
from mambino.imageio.folders import open_dataset
from mambino.inference.ledger import Entry, Predictions, entries_in
from mambino.models import build, divisor
from mambino.preprocessing.case import prepare
from mambino.preprocessing.store import Origin, Store
from mambino.training.runs import Run
from mambino.training.state import DIGEST, load_state, save_state
from mambino.weights import bundle
from mambino.weights.checkpoints import read_checkpoint
from mambino.weights.conversion import convert
from tests.datasets import write_pictures
from tests.fuzz import mutations as damage
from tests.fuzz.kinds import Kind
from tests.tiny import tiny_bundle
from tests.training import toys
from tests.weights import containers
from tests.weights.test_conversion import theirs, tiny

_NUMBERS = Intensity(mean=1.0, std=1.0, minimum=0.0, maximum=9.0, median=1.0, percentile_00_5=0.0, percentile_99_5=8.0)


def kinds() -> list[Kind]:
    """Return every kind of file that is no image."""
    zipped = damage.zipped(damage.any_bytes)
    return [
        Kind("bundle", "m.safetensors", _bundle, damage.any_bytes, _read_bundle),
        Kind("bundle signed", "m.safetensors", _bundle, _signed, _read_bundle),
        Kind("tensors", "m.safetensors", _tensors, _described, read_checkpoint),
        Kind("checkpoint", "c.pth", _checkpoint, zipped, read_checkpoint),
        Kind("checkpoint old", "c.pth", partial(_checkpoint, old=True), damage.any_bytes, read_checkpoint),
        Kind("checkpoint plan", "c.pth", _checkpoint, zipped, _convert),
        Kind("checkpoint plan apart", "trainer__plans__used/plans.json", _plans_apart, damage.in_json, _convert_beside),
        Kind("state", "state.pt", _state, _summed(zipped), _read_state),
        Kind("plan", "plan.json", _plan, damage.in_json, _read_plan),
        Kind("fingerprint", "fingerprint.json", _fingerprint, damage.in_json, partial(read, Fingerprint)),
        Kind("run", "options.json", _run, damage.in_json, partial(read, Run)),
        Kind("ledger", "predict.json", _ledger, damage.in_json, _read_ledger),
        Kind("best", "best.json", _best, damage.in_json, _read_best),
        Kind("report", "report.json", _report, damage.in_json, partial(read, Report)),
        Kind("log", "log.jsonl", _log, damage.in_json, read_curves),
        Kind("description", "dataset.json", _description, damage.in_json, lambda path: open_dataset(path.parent)),
        Kind("prepared image", "a.image.b2nd", _prepared, damage.any_bytes, _read_prepared, keeps_open=True),
        Kind("prepared labels", "a.labels.b2nd", _prepared, damage.any_bytes, _read_prepared, keeps_open=True),
        Kind("prepared facts", "a.json", _prepared, damage.in_json, _read_prepared),
        Kind("codes", "codes.toml", _codes, damage.in_toml, lambda path: read_codes(path, ("liver",))),
        Kind("options", "options.toml", _options, damage.in_toml, lambda path: check_file(path, {"train"})),
    ]


def _bundle(path: Path) -> None:
    bundle.save(_small(), path)


def _small() -> bundle.Bundle:
    torch.manual_seed(0)
    config = toys.config(network=tiny())
    return tiny_bundle(config, labels=toys.TWO, channels=("MR",))


def _read_bundle(path: Path) -> None:
    bundle.header(path)
    bundle.load(path)


def _signed(data: bytes, rng: random.Random) -> bytes:
    """Change what a bundle says of itself, and give it the sum that fits."""
    (length,) = struct.unpack("<Q", data[:8])
    table, body = json.loads(data[8 : 8 + length]), memoryview(data)[8 + length :]
    described = json.loads(table["__metadata__"]["mambino"])
    described = json.loads(_object(json.dumps(described).encode(), rng))
    text = json.dumps({**described, "sha256": ""})
    parts = {name: body[slice(*entry["data_offsets"])] for name, entry in table.items() if name != "__metadata__"}
    digest = bundle._sum(text, sorted(parts.items()))
    table["__metadata__"]["mambino"] = text.replace('"sha256": ""', f'"sha256": "{digest}"')
    head = json.dumps(table).encode()
    return struct.pack("<Q", len(head)) + head + bytes(body)


def _object(data: bytes, rng: random.Random) -> bytes:
    while True:
        made = damage.in_json(data, rng)
        try:
            if isinstance(json.loads(made), dict):
                return made
        except (ValueError, RecursionError):
            continue


def _described(data: bytes, rng: random.Random) -> bytes:
    """Change the table of contents of a file of tensors, or its bytes."""
    if rng.random() < 0.5:
        return damage.any_bytes(data, rng)
    (length,) = struct.unpack("<Q", data[:8])
    head = damage.in_json(data[8 : 8 + length], rng)
    return struct.pack("<Q", len(head)) + head + data[8 + length :]


def _tensors(path: Path) -> None:
    save_file({"a": torch.ones(2, 3), "b": torch.ones(4)}, path)


def _checkpoint(path: Path, old: bool = False) -> None:
    torch.manual_seed(0)
    content = containers.of_nnunet(
        theirs(build(tiny())), containers.plan(2, (32, 32), ()), containers.description(1, 3)
    )
    torch.save(content, path, _use_new_zipfile_serialization=not old)


def _convert(path: Path) -> None:
    convert(path, path.with_name("converted.safetensors"))


def _plans_apart(path: Path) -> None:
    torch.manual_seed(0)
    fold = path.parent / "fold_0"
    fold.mkdir()
    torch.save({"network_weights": theirs(build(tiny()))}, fold / "checkpoint_final.pth")
    described = containers.description(1, 3)
    (path.parent / "dataset.json").write_text(json.dumps(described))
    path.write_text(json.dumps(containers.plan(2, (32, 32), ())))


def _convert_beside(path: Path) -> None:
    convert(path.parent, path.with_name("converted.safetensors"))


def _state(path: Path) -> None:
    save_state(toys.fresh(toys.config().recipe), path)


def _summed(inner: damage.Change) -> damage.Change:
    """Change what a state holds and give it the sum that fits, or change the file."""

    def change(data: bytes, rng: random.Random) -> bytes:
        if rng.random() < 0.3:
            return damage.any_bytes(data, rng)
        made = inner(data[:-DIGEST], rng)
        return made + hashlib.sha256(made).digest()

    return change


def _read_state(path: Path) -> None:
    load_state(toys.fresh(toys.config().recipe), path)


def _plan(path: Path) -> None:
    plan = Plan(
        dataset="heart", folder="data/heart", channels=("MR",), labels=toys.TWO, device="cpu",
        default="2d", configs={"2d": toys.config(network=tiny()), "3d": toys.config(3)},
    )  # fmt: skip
    write(plan, path)


def _read_plan(path: Path) -> None:
    """Read a plan and do with it what verbs do: prepare an image, and build the network."""
    plan = read_plan(path.parent)
    for config in plan.configs.values():
        prepare(Image(np.random.default_rng(0).random((1, *(8,) * config.dim)), pixel_grid((8,) * config.dim)), config)
        divisor(config.network)
        build(config.network)


def _fingerprint(path: Path) -> None:
    case = CaseFacts(
        id="a", shape=(5, 6), cropped=(4, 4), spacing=(1.0, 1.0), orientation="", counts={"1": 4},
        centres={"1": (0.5, 0.5)},
    )  # fmt: skip
    write(Fingerprint(source="0" * 64, cases=(case,), intensities=(_NUMBERS,), unit="pixel"), path)


def _run(path: Path) -> None:
    run = Run(options=TrainOptions(), name="2d", config=toys.config(), training=("a",), held_out=("b",))
    write(run, path)


def _ledger(path: Path) -> None:
    entry = Entry(case="a", status="made", file=Path("a.nii.gz"), sha256="0" * 64, made_by="0" * 64)
    made = Predictions(bundles=("0" * 64,), options=PredictOptions(), versions={"mambino": "0"}, entries=(entry,))
    write(made, path)


def _read_ledger(path: Path) -> None:
    find_model(path.parent, ["a"])
    entries_in(path.parent)


def _best(path: Path) -> None:
    member = Member(config="2d", fold=0, bundle=Path("runs/2d-0/model.safetensors"), sha256="0" * 64)
    dice = Statistic(cases=4, mean=0.8, low=0.7, high=0.9, median=0.8)
    chosen = Contender(name="2d", configs=("2d",), dice=dice, labels={"dark": dice}, seconds=1.0, chosen=True)
    gain = Gain(label="dark", largest=True, before=0.8, after=0.9, difference=dice, taken=True)
    made = Best(
        dataset="heart", members=(member,), cases=4, contenders=(chosen,), gains=(gain,), cleaned=dice, reason="alone",
        versions={},
    )  # fmt: skip
    write(made, path)


def _read_best(path: Path) -> None:
    """Read a record and do with it what `predict` does before it opens a bundle."""
    made = read(Best, path)
    made.applied(PredictOptions())
    assert all(
        path.parent in Path(os.path.normpath(file)).parents for group in made.groups(path.parent) for file in group
    )


def _report(path: Path) -> None:
    made = Report(
        surface="voxel", tolerance=1.0, unit="mm", scores=(), summary=(), definitions={"dice": "x"}, versions={}
    )
    write(made, path)


def _log(path: Path) -> None:
    path.write_text('{"number": 1, "loss": 0.5, "dice": 0.1}')


def _description(path: Path) -> None:
    write_pictures(path.parent, training=2, test=0, shape=(8, 8))


def _prepared(path: Path) -> None:
    origin = Origin(key="0", data="0", shape=(9, 9), spacing=(1.0, 1.0), prepared_spacing=(1.0, 1.0), unit="mm")
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, (9, 9))
    Store(path.parent).write("a", random.random((1, 9, 9)).astype(np.float32), labels, origin)


def _read_prepared(path: Path) -> None:
    store = Store(path.parent)
    store.sound("a")
    case = store.open("a")
    case.image_patch((0, 0), (9, 9))
    case.labels_patch((0, 0), (9, 9))
    assert case.locations is not None


def _codes(path: Path) -> None:
    path.write_text('[labels.liver]\ntype = ["10200004", "SCT", "Liver"]\n')


def _options(path: Path) -> None:
    path.write_text("[train]\nminutes = 30\n")
