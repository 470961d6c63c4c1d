"""The verb `pretrain`: pictures by class in, an encoder out; stopped and gone on with; what it does to pictures."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from mambino.core.options import PretrainOptions
from mambino.core.plan import NetworkSpec
from mambino.errors import DataError, Error, OptionError
from mambino.models import build
from mambino.training.pretraining import pretrain
from mambino.training.pretraining.changes import RANDAUGMENT, Mix, changed, draw_mix
from mambino.training.pretraining.pictures import Batches, Look, Picture, find_pictures, read_picture
from mambino.training.processes import Processes
from mambino.weights.bundle import load
from mambino.weights.initialisation import initialise

NETWORK = ("width=8", "depths=1,1", "state_size=2", "drop_path=0.1")
PLAIN = {"mixup": 0.0, "cutmix": 0.0, "randaugment": 0.0, "erase": 0.0, "crop": 0.8}
SHORT = PretrainOptions(set=NETWORK, size=32, batch=8, epochs=2, rate=5e-3, threads=1, **PLAIN)
LOOK = Look(size=32, crop=0.5, magnitude=9.0, erase=0.5, mixup=0.8, cutmix=1.0, smoothing=0.1)


def draw(folder, classes=("bright", "dark"), count=8, seed=0):
    """Write noise that is brighter in one class than in the next."""
    random = np.random.default_rng(seed)
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = random.normal(180 - 100 * number, 30, (36, 40, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")


@pytest.fixture
def folder(tmp_path):
    draw(tmp_path / "pictures" / "train", count=12)
    draw(tmp_path / "pictures" / "val", count=5, seed=1)
    return tmp_path / "pictures"


def lines(output):
    return [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]


def tensors(path):
    return load(path).network.state_dict()


def equal(one, other):
    return all(torch.equal(x, other[name]) for name, x in one.items())


def test_it_learns_to_tell_two_classes_and_others_start_from_what_it_learnt(folder, tmp_path):
    seen = []
    model = pretrain(folder, tmp_path / "run", replace(SHORT, epochs=6), on_epoch=seen.append)
    assert seen[-1].accuracy >= 0.9
    assert [line["number"] for line in lines(tmp_path / "run")] == [1, 2, 3, 4, 5, 6]
    bundle = load(model)
    assert list(bundle.labels.names) == ["bright", "dark"]
    assert bundle.provenance.accuracy == seen[-1].accuracy
    options = {"width": 8, "depths": (1, 1), "state_size": 2, "decoder_depth": 1}
    spec = NetworkSpec(name="swin_umamba_dagger", dim=2, in_channels=3, out_channels=2, options=options)
    found = initialise(build(spec), spec, bundle)
    assert {name.split(".")[0] for name in found.loaded} == {"embed", "encoder"}


def test_a_backbone_is_kept_without_the_layer_that_told_the_classes(folder, tmp_path):
    options = replace(SHORT, model="swin_encoder", set=("depths=2,1", "heads=1,1", "window=3"), epochs=1)
    bundle = load(pretrain(folder, tmp_path / "run", options))
    assert bundle.config.network.name == "swin_encoder"
    assert not any("head.weight" in name for name in bundle.network.state_dict())


def test_a_run_that_was_stopped_gives_the_weights_of_one_that_was_not(folder, tmp_path):
    def press(epoch):
        if epoch.number == 1:
            os.kill(os.getpid(), signal.SIGINT)

    options = replace(SHORT, mixup=0.8, cutmix=1.0, randaugment=9.0, erase=0.25)
    whole = tensors(pretrain(folder, tmp_path / "whole", options))
    with pytest.raises(KeyboardInterrupt):
        pretrain(folder, tmp_path / "run", options, on_epoch=press)
    assert not (tmp_path / "run" / "model.safetensors").exists()
    with pytest.raises(OptionError, match="run already holds a run"):
        pretrain(folder, tmp_path / "run", options)
    resumed = pretrain(folder, tmp_path / "run", replace(options, resume=True))
    assert equal(whole, tensors(resumed))
    assert [line["number"] for line in lines(tmp_path / "run")] == [1, 2]
    before = resumed.stat().st_mtime_ns
    assert pretrain(folder, tmp_path / "run", replace(options, resume=True)).stat().st_mtime_ns == before


def test_another_run_is_not_gone_on_with(folder, tmp_path):
    pretrain(folder, tmp_path / "run", replace(SHORT, epochs=1))
    with pytest.raises(OptionError, match="holds a run with --batch 8, it cannot go on with --batch 4"):
        pretrain(folder, tmp_path / "run", replace(SHORT, batch=4, resume=True))
    (folder / "train" / "dark" / "0.png").unlink()
    with pytest.raises(OptionError, match="holds a run on 24 pictures of 2 classes, there are now 23 of 2, or others"):
        pretrain(folder, tmp_path / "run", replace(SHORT, resume=True))


def test_a_time_budget_settles_the_number_of_steps_instead_of_the_epochs(folder, tmp_path):
    seen = []
    model = pretrain(folder, tmp_path / "run", replace(SHORT, epochs=100_000, minutes=2 / 60), on_epoch=seen.append)
    assert seen[-1].number == seen[-1].of < 100_000
    assert load(model).provenance.steps == seen[-1].step > 0


def test_two_processes_learn_what_one_learns(folder, tmp_path):
    options = replace(SHORT, set=(*NETWORK[:3], "drop_path=0.0"), epochs=1, mixup=0.8, cutmix=1.0)
    one = tensors(pretrain(folder, tmp_path / "one", options))
    words = [
        "pretrain",
        str(folder),
        "-o",
        str(tmp_path / "two"),
        "--set",
        *options.set,
        "--size",
        "32",
        "--batch",
        "8",
    ]
    words += [
        "--epochs",
        "1",
        "--rate",
        "0.005",
        "--threads",
        "1",
        "--randaugment",
        "0",
        "--erase",
        "0",
        "--crop",
        "0.8",
    ]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "mambino"]
    done = subprocess.run([*launch, *words], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    two = tensors(tmp_path / "two" / "model.safetensors")
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-4, atol=1e-5, msg=name)
    assert len(lines(tmp_path / "two")) == 1


def test_what_cannot_be_learnt_from_is_refused_by_name(folder, tmp_path):
    with pytest.raises(DataError, match=r"nowhere is no folder"):
        find_pictures(tmp_path / "nowhere", 0.1, 0)
    shutil.rmtree(folder / "val" / "dark")
    with pytest.raises(DataError, match=r"must have the same classes; in one of them alone: dark"):
        find_pictures(folder, 0.1, 0)
    shutil.rmtree(folder / "train" / "dark")
    with pytest.raises(DataError, match=r"train needs a folder for each of at least two classes.*and has bright"):
        find_pictures(folder, 0.1, 0)
    (folder / "train" / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty holds no picture"):
        find_pictures(folder, 0.1, 0)


def test_a_network_that_makes_masks_is_not_pretrained(folder, tmp_path):
    with pytest.raises(OptionError, match="unet makes masks; pretrain takes what such networks are built on"):
        pretrain(folder, tmp_path / "run", replace(SHORT, model="unet"))


def test_a_picture_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG none")
    with pytest.raises(DataError, match=r"broken\.png cannot be read"):
        read_picture(Picture(tmp_path / "broken.png", 0))
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(DataError, match=r"deep\.png has pixels of kind I;16, and pictures need 8 bits a channel"):
        read_picture(Picture(tmp_path / "deep.png", 0))
    Image.fromarray(np.full((4, 4), 7, np.uint8)).save(tmp_path / "grey.png")
    assert read_picture(Picture(tmp_path / "grey.png", 0)).getpixel((0, 0)) == (7, 7, 7)


def test_a_share_of_each_class_is_held_out_where_there_is_nothing_to_test_on(tmp_path):
    draw(tmp_path, count=10)
    found = find_pictures(tmp_path, 0.3, 0)
    assert [sum(p.kind == kind for p in found.held_out) for kind in (0, 1)] == [3, 3]
    assert not set(found.training) & set(found.held_out)
    assert find_pictures(tmp_path, 0.3, 0) == found != find_pictures(tmp_path, 0.3, 1)


@pytest.fixture
def batches(tmp_path):
    draw(tmp_path, classes=("a", "b", "c"))
    return Batches(find_pictures(tmp_path, 0.1, 0).training, 3, 6, LOOK, 0, Processes())


def test_targets_sum_to_one_and_the_same_number_gives_the_same_batch(batches):
    for number in range(6):
        batch = batches(number)
        assert batch.images.shape == (6, 3, 32, 32)
        torch.testing.assert_close(batch.target.sum(1), torch.ones(6))
        assert batch.target.min() >= 0.1 / 3 - 1e-6
        assert torch.equal(batches(number).images, batch.images)


def test_processes_share_a_batch_and_each_picture_comes_once_an_epoch(batches):
    whole = batches(1)
    parts = [replace(batches, processes=Processes(rank, 2))(1) for rank in range(2)]
    assert torch.equal(torch.stack([parts[i % 2].images[i // 2] for i in range(6)]), whole.images)
    plain = replace(batches, look=replace(LOOK, mixup=0.0, cutmix=0.0, smoothing=0.0), size=4)
    seen = sum(plain(number).target.sum(0) for number in range(plain.epoch))
    assert seen.sum() == 4 * plain.epoch
    assert seen.max() <= 7


@pytest.mark.parametrize("cut", [False, True])
def test_the_target_is_mixed_as_the_picture_is(cut):
    one, other = torch.zeros(3, 32, 32), torch.ones(3, 32, 32)
    random = np.random.default_rng(0)
    for _ in range(20):
        mix = draw_mix(0.0 if cut else 0.8, 1.0 if cut else 0.0, random)
        assert mix.cut is cut
        assert mix.joined(one, other).mean().item() == pytest.approx(1 - mix.share_of(32), abs=1e-5)
    assert Mix().joined(one) is one


@pytest.mark.parametrize("change", RANDAUGMENT)
def test_every_change_gives_a_picture_of_the_same_size(change):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 24, 3)).astype(np.uint8))
    for strength in (0.0, 0.5, 1.0):
        result = change(image, strength, np.random.default_rng(1))
        assert (result.size, result.mode) == (image.size, "RGB")


def test_a_picture_that_is_not_changed_is_cut_out_mirrored_and_normalised():
    grey = Image.fromarray(np.full((50, 70, 3), 124, np.uint8))
    result = changed(grey, 32, 0.1, 0.0, 0.0, np.random.default_rng(0))
    assert result.shape == (3, 32, 32)
    torch.testing.assert_close(result[0], torch.full((32, 32), (124 / 255 - 0.485) / 0.229))


def test_a_loss_that_is_not_finite_ends_the_run_with_the_step(folder, tmp_path, monkeypatch):
    infinite = torch.tensor(float("inf"), requires_grad=True)
    monkeypatch.setattr(
        "mambino.training.pretraining.loop.functional.cross_entropy", lambda logits, _: logits.sum() * infinite
    )
    with pytest.raises(Error, match=r"not finite at step 1 \(cross-entropy"):
        pretrain(folder, tmp_path / "run", SHORT)
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_several_processes_need_a_number_of_epochs(folder, tmp_path, monkeypatch):
    from contextlib import contextmanager

    @contextmanager
    def two(_device):
        yield Processes(0, 2)

    monkeypatch.setattr("mambino.training.pretraining.processes", two)
    with pytest.raises(OptionError, match=r"--minutes 1 with 2 processes: each would settle another number of steps"):
        pretrain(folder, tmp_path / "run", replace(SHORT, minutes=1.0))
    with pytest.raises(OptionError, match=r"a batch of 1 pictures cannot be shared by 2 processes"):
        pretrain(folder, tmp_path / "run", replace(SHORT, batch=1))
