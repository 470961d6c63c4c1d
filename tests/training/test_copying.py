"""A run folder can be copied at any moment while it trains: every file in the copy is whole, and the copy goes on."""

import shutil
import threading
from dataclasses import replace

import pytest
import torch

from mambino.core.records import read
from mambino.training import train
from mambino.training.runs import Run
from mambino.weights.bundle import load
from tests.training.test_killing import EACH
from tests.training.test_training import tensors
from tests.training.test_training import work as work  # noqa: PLC0414 - a fixture


@pytest.fixture
def copies(work, monkeypatch, tmp_path_factory):
    """Train to the end, copying the run again and again, once an epoch at least; return the copies, oldest first."""
    monkeypatch.setattr("mambino.training.SAVE_EVERY", 0.0)
    folder, made, over, another = tmp_path_factory.mktemp("copies"), [], threading.Event(), threading.Event()

    def copy() -> None:
        while not over.wait(0.02):
            to = folder / f"{len(made):03d}" / "runs"
            if (work / "runs" / "2d-unet-0" / "state.pt").exists():
                shutil.copytree(work / "runs", to, ignore=shutil.ignore_patterns(".part-*"))
                made.append(to.parent)
                another.set()

    def wait(_) -> None:
        another.clear()
        assert another.wait(60), "the copier stopped"

    copier = threading.Thread(target=copy)
    copier.start()
    try:
        train(work, replace(EACH, epochs=6), on_epoch=wait)
    finally:
        over.set()
        copier.join()
    return made


def test_every_copy_is_whole_and_goes_on_to_the_same_weights(work, copies):
    assert len(copies) >= 6
    wanted = tensors(work / "runs" / "2d-unet-0" / "model.safetensors")
    for copied in copies:
        run = copied / "runs" / "2d-unet-0"
        assert read(Run, run / "options.json").name == "2d-unet"
        for file in run.glob("*.safetensors"):
            load(file)
    for copied in (copies[0], copies[len(copies) // 2]):
        shutil.copytree(work / "prepared", copied / "prepared")
        shutil.copy(work / "plan.json", copied)
        found = tensors(train(copied, replace(EACH, epochs=6, resume=True)))
        assert all(torch.equal(found[name], x) for name, x in wanted.items())
