"""The verb: from a prepared folder to two bundles, a log and a state; stopped and gone on with; clear errors."""

import json
import os
import shutil
import signal
import sys
from dataclasses import replace
from itertools import count
from types import SimpleNamespace

import pytest
import torch

from mambino.core.fingerprint import CaseFacts, Fingerprint
from mambino.core.labels import Labels
from mambino.core.options import TrainOptions
from mambino.core.plan import NetworkSpec, Plan
from mambino.core.records import read, write
from mambino.errors import DataError, FileFormatError, OptionError, WeightsError
from mambino.preprocessing.case import data_side
from mambino.preprocessing.store import Origin, Store
from mambino.training import train
from mambino.training.choosing import choose_config
from mambino.training.runs import Run, number_of
from mambino.weights.bundle import header, load, save
from tests.tiny import know, tiny_bundle
from tests.training.toys import TWO, case, config

SHORT = TrainOptions(epochs=2, folds=3, threads=1, precision="float32")  # "auto" measures, and may choose differently


def planned(**changes):
    one = config(**{"recipe": {"augmentation": "light", "rate": 0.01}} | changes)
    return Plan(
        dataset="toys",
        folder="gone",
        channels=("light",),
        labels=TWO,
        device="cpu",
        default="2d-unet",
        configs={"2d-unet": one},
    )


@pytest.fixture
def work(tmp_path):
    """Return a work folder with six prepared cases of three patients."""
    plan = planned()
    write(plan, tmp_path / "plan.json")
    store = Store(tmp_path / "prepared" / "2d")
    for i in range(6):
        one = case(seed=i, name=f"toy_{i}")
        origin = Origin(
            key=str(i),
            data=data_side(plan.configs["2d-unet"]),
            patient=f"p{i // 2}",
            shape=one.shape,
            spacing=(1.0, 1.0),
            prepared_spacing=(1.0, 1.0),
            unit="mm",
        )
        store.write(one.id, one.image, one.labels, origin)
    return tmp_path


def lines(run):
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def test_all_folds_are_trained_one_after_the_other(work):
    told = []
    made = train(work, replace(SHORT, fold="all-folds"), on_fold=lambda *one: told.append(one))
    assert made == tuple(work / "runs" / f"2d-unet-{fold}" / "model.safetensors" for fold in range(3))
    assert told == [(f"2d-unet-{fold}", fold, 3) for fold in range(3)]
    held_out = [load(path).provenance.held_out for path in made]
    assert sorted(case for cases in held_out for case in cases) == [f"toy_{i}" for i in range(6)]
    single = {path: path.read_bytes() for path in made}
    shutil.rmtree(work / "runs" / "2d-unet-1")
    assert train(work, replace(SHORT, fold="all-folds"), on_epoch=lambda _: None) == made
    assert {path: path.read_bytes() for path in (made[0], made[2])} == {p: single[p] for p in (made[0], made[2])}


def test_an_interrupted_fold_goes_on_with_resume_and_complete_ones_stay(work):
    wanted = train(work, replace(SHORT, fold=1))
    weights = {k: v.clone() for k, v in load(wanted).network.state_dict().items()}
    shutil.rmtree(work / "runs")
    seen = []

    def stop(epoch):
        seen.append(epoch)
        if len(seen) == 3:
            os.kill(os.getpid(), signal.SIGINT)

    every = replace(SHORT, fold="all-folds")
    with pytest.raises(KeyboardInterrupt):
        train(work, every, on_epoch=stop)
    assert not (work / "runs" / "2d-unet-1" / "model.safetensors").exists()
    with pytest.raises(OptionError, match="2d-unet-1 already holds a run") as caught:
        train(work, every)
    assert "--resume" in caught.value.hint
    first = (work / "runs" / "2d-unet-0" / "state.pt").stat().st_mtime_ns
    made = train(work, replace(every, resume=True))
    assert (work / "runs" / "2d-unet-0" / "state.pt").stat().st_mtime_ns == first
    for name, value in load(made[1]).network.state_dict().items():
        torch.testing.assert_close(value, weights[name], rtol=0, atol=0)


def test_a_complete_fold_of_another_run_is_not_taken_for_this_one(work):
    every = replace(SHORT, fold="all-folds")
    train(work, replace(SHORT, fold=0))
    with pytest.raises(OptionError, match="2d-unet-0 holds a complete run with epochs 2, this one has epochs 3"):
        train(work, replace(every, epochs=3))
    with pytest.raises(OptionError, match="holds a run with --seed 0, it cannot go on with --seed 1"):
        train(work, replace(every, seed=1))
    made = train(work, replace(every, epochs=3, resume=True))
    assert len(lines(made[0].parent)) == 3


def test_training_leaves_bundles_log_options_and_state(work):
    seen = []
    model = train(work, SHORT, on_epoch=seen.append)
    run = work / "runs" / "2d-unet-0"
    assert model == run / "model.safetensors"
    assert {p.name for p in run.iterdir()} == {
        "model.safetensors",
        "best.safetensors",
        "last.safetensors",
        "log.jsonl",
        "options.json",
        "state.pt",
        "state-before.pt",
    }
    assert [line["number"] for line in lines(run)] == [e.number for e in seen] == [1, 2]
    shipped, best = load(model), load(run / "best.safetensors")
    assert best.provenance.score == pytest.approx(max(e.dice for e in seen if e.dice is not None))
    assert shipped.provenance.score == pytest.approx(seen[-1].dice)
    assert same(model, run / "last.safetensors")
    assert (shipped.provenance.cases, len(shipped.provenance.held_out)) == (4, 2)
    assert shipped.provenance.held_out[0][:-1] == shipped.provenance.held_out[1][:-1]
    assert shipped.provenance.steps == 8
    assert (shipped.labels, shipped.channels, shipped.provenance.dataset) == (TWO, ("light",), "toys")
    assert shipped.network(torch.zeros(1, 1, 16, 16)).shape == (1, 3, 16, 16)


def same(shipped, made):
    """Tell whether two bundles differ at most in how far masks agree in bfloat16, which is known of what is shipped."""
    one, other = load(shipped), load(made)
    tensors = zip(one.network.state_dict().values(), other.network.state_dict().values(), strict=True)
    headers = [replace(header(path), half=None, sha256="") for path in (shipped, made)]
    return headers[0] == headers[1] and all(torch.equal(*pair) for pair in tensors)


def test_a_run_that_patience_ends_ships_its_best_weights(work):
    seen = []
    model = train(work, replace(SHORT, epochs=40, patience=1, validate_every=1), on_epoch=seen.append)
    assert len(seen) < 40
    assert same(model, model.parent / "best.safetensors")
    assert load(model).provenance.score == pytest.approx(max(e.dice for e in seen))


def test_a_run_killed_before_its_weights_were_put_in_place_ships_them_when_it_is_started_again(work):
    model = train(work, SHORT)
    model.unlink()
    assert train(work, replace(SHORT, resume=True)) == model
    assert load(model).provenance.steps == 8


def test_weights_that_patience_chose_are_shipped_by_whoever_goes_on(work):
    options = replace(SHORT, epochs=40, patience=1, validate_every=1)
    model = train(work, options)
    wanted = model.read_bytes()
    for damage in (model.unlink, lambda: model.write_bytes(wanted[: len(wanted) // 2])):
        damage()
        assert train(work, replace(options, resume=True)) == model
        assert model.read_bytes() == wanted
        best = tensors(model.parent / "best.safetensors")
        assert all(torch.equal(best[name], value) for name, value in tensors(model).items())


def test_cases_of_one_patient_are_never_parted(work):
    train(work, SHORT)
    held_out = load(work / "runs" / "2d-unet-0" / "model.safetensors").provenance.held_out
    assert {int(name[-1]) // 2 for name in held_out} == {int(held_out[0][-1]) // 2}


def test_equal_seeds_give_equal_models_and_the_state_of_torch_is_left_alone(work):
    torch.manual_seed(5)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    train(work, SHORT)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads
    first = (work / "runs").rename(work / "runs-before") / "2d-unet-0" / "model.safetensors"
    one, two = load(first).network.state_dict(), load(train(work, SHORT)).network.state_dict()
    assert all(torch.equal(a, b) for a, b in zip(one.values(), two.values(), strict=True))


def test_all_folds_means_no_validation_and_the_last_weights(work):
    model = train(work, replace(SHORT, fold="all"))
    assert model.parent.name == "2d-unet-all"
    bundle = load(model)
    assert (bundle.provenance.cases, bundle.provenance.held_out, bundle.provenance.score) == (6, (), None)


def test_a_run_is_not_started_twice_unless_asked_to_go_on(work):
    model = train(work, SHORT)
    with pytest.raises(OptionError, match="2d-unet-0 already holds a run") as caught:
        train(work, SHORT)
    assert "--resume" in caught.value.hint
    assert "remove the folder" in caught.value.hint
    before = model.stat().st_mtime_ns
    assert train(work, replace(SHORT, resume=True)) == model
    assert model.stat().st_mtime_ns == before


def test_going_on_with_more_epochs_goes_on(work):
    train(work, SHORT)
    seen = []
    train(work, replace(SHORT, resume=True, epochs=4), on_epoch=seen.append)
    assert [e.number for e in seen] == [3, 4]
    assert [line["number"] for line in lines(work / "runs" / "2d-unet-0")] == [1, 2, 3, 4]


def test_ctrl_c_finishes_the_step_and_saves(work):
    def press(epoch):
        if epoch.number == 1:
            os.kill(os.getpid(), signal.SIGINT)

    whole = load(train(work, replace(SHORT, epochs=3))).network.state_dict()
    (work / "runs").rename(work / "runs-whole")
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(work, replace(SHORT, epochs=3), on_epoch=press)
    assert signal.getsignal(signal.SIGINT) is handler
    run = work / "runs" / "2d-unet-0"
    assert torch.load(run / "state.pt", weights_only=True)["numbers"]["step"] == 5
    resumed = load(train(work, replace(SHORT, epochs=3, resume=True))).network.state_dict()
    assert all(torch.equal(a, b) for a, b in zip(whole.values(), resumed.values(), strict=True))
    assert [line["number"] for line in lines(run)] == [1, 2, 3]


@pytest.mark.parametrize(("name", "batches"), [("nnunet", 3), ("swin_unet", 2)])
def test_a_stopped_run_of_a_published_recipe_goes_on_to_the_same_bit(work, name, batches):
    options = replace(SHORT, recipe=name, set=("steps=3", f"accumulate={batches}"))

    def press(_epoch):
        os.kill(os.getpid(), signal.SIGINT)

    whole = tensors(train(work, options))
    shutil.rmtree(work / "runs")
    with pytest.raises(KeyboardInterrupt):
        train(work, options, on_epoch=press)
    resumed = tensors(train(work, replace(SHORT, resume=True)))
    assert all(torch.equal(resumed[name], x) for name, x in whole.items())


def test_a_second_ctrl_c_acts_at_once(work):
    def press(_epoch):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(work, SHORT, on_epoch=press)
    assert torch.load(work / "runs" / "2d-unet-0" / "state.pt", weights_only=True)["numbers"]["step"] == 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seed": 3}, "holds a run with --seed 0, it cannot go on with --seed 3"),
        ({"folds": 2}, "holds a run with --folds 3, it cannot go on with --folds 2"),
    ],
)
def test_another_run_is_not_gone_on_with(work, changes, words):
    train(work, SHORT)
    with pytest.raises(OptionError, match=words):
        train(work, replace(SHORT, resume=True, **changes))


def test_a_run_of_another_plan_is_not_gone_on_with(work):
    train(work, SHORT)
    write(planned(batch=3), work / "plan.json")
    with pytest.raises(OptionError, match="holds a run with batch 2, now it is 3"):
        train(work, replace(SHORT, resume=True))


def test_how_a_run_learns_need_not_be_said_again_but_cannot_become_another(work):
    options = replace(SHORT, recipe="lightm_unet", set=("steps=4", "average=0.9"), loss=("dice=1", "bce=1"))
    whole = tensors(train(work, options))
    run = work / "runs" / "2d-unet-0"
    kept = read(Run, run / "options.json")
    assert kept.config.recipe.optimiser == "adam"
    assert kept.config.recipe.loss == {"dice": 1.0, "bce": 1.0}
    shutil.rmtree(run)
    train(work, replace(options, epochs=1))
    again = tensors(train(work, replace(SHORT, resume=True)))
    assert read(Run, run / "options.json").config == kept.config
    assert again.keys() == whole.keys()
    with pytest.raises(OptionError, match=r"holds a run with recipe\.average 0\.9, now it is 0\.5"):
        train(work, replace(options, set=("steps=4", "average=0.5"), resume=True))


def test_checkpointing_changes_no_bit_of_a_run(work):
    whole = tensors(train(work, SHORT))
    shutil.rmtree(work / "runs")
    assert all(torch.equal(x, whole[n]) for n, x in tensors(train(work, replace(SHORT, checkpointing=True))).items())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own compiler
def test_a_compiled_run_learns_the_same(work):
    run = work / "runs" / "2d-unet-0"
    train(work, SHORT)
    plain = lines(run)
    shutil.rmtree(work / "runs")
    train(work, replace(SHORT, compile=True))
    # Of weights, biases before a norm may differ: their gradient is rounding alone, of which Adam makes whole steps.
    assert [line["loss"] for line in lines(run)] == pytest.approx([line["loss"] for line in plain], rel=0.02)


def test_the_encoder_is_held_as_the_recipe_says_where_a_run_starts_from_a_bundle(work):
    start = train(work, SHORT).rename(work / "start.safetensors")
    shutil.rmtree(work / "runs")
    options = replace(SHORT, epochs=1, set=("freeze=1", "average=0"))
    fresh = tensors(train(work, options), "encoder.")
    shutil.rmtree(work / "runs")
    held = tensors(train(work, replace(options, init=start)), "encoder.")
    before = tensors(start, "encoder.")
    assert all(torch.equal(held[name], x) for name, x in before.items())
    assert not all(torch.equal(fresh[name], x) for name, x in before.items())


def test_a_run_on_other_cases_is_not_gone_on_with(work):
    train(work, SHORT)
    Store(work / "prepared" / "2d").remove("toy_0")
    with pytest.raises(OptionError, match=r"holds a run on 4 \+ 2 cases, the prepared ones are now 3 \+ 2"):
        train(work, replace(SHORT, resume=True))


def test_patience_ends_a_run_for_good(work):
    write(planned(recipe={"rate": 1e-12}), work / "plan.json")
    seen = []
    options = replace(SHORT, epochs=50, patience=2, validate_every=1)
    train(work, options, on_epoch=seen.append)
    assert [e.patience_left for e in seen] == [2, 1, 0]
    train(work, replace(options, resume=True), on_epoch=seen.append)
    assert len(seen) == 3


def test_a_time_budget_of_seconds_gives_a_model(work, monkeypatch):
    seen, ticks = [], count()
    # Each look at the clock is 10 ms after the last: a busy machine may stop a program for longer than the budget.
    clock = SimpleNamespace(perf_counter=lambda: next(ticks) / 100)
    for module in ("mambino.training", "mambino.training.processes"):
        monkeypatch.setattr(sys.modules[module], "time", clock)
    train(work, replace(SHORT, epochs=None, minutes=0.03), on_epoch=seen.append)
    assert 1.7 < seen[-1].seconds < 1.9
    assert seen[-1].step > 50
    assert seen[-1].dice is not None


@pytest.mark.parametrize("missing", ["plan", "prepared", "cases"])
def test_what_is_missing_is_named_with_the_command_that_makes_it(work, missing):
    if missing == "plan":
        (work / "plan.json").unlink()
        words, command = "holds no plan.json", "mambino plan"
    elif missing == "prepared":
        (work / "prepared").rename(work / "elsewhere")
        words, command = "2d holds no prepared cases", "mambino preprocess"
    else:
        facts = [
            CaseFacts(id=f"toy_{i}", shape=(1,), cropped=(1,), spacing=(1.0,), orientation="", counts={})
            for i in range(8)
        ]
        write(Fingerprint(source="", cases=tuple(facts), intensities=(), unit="mm"), work / "fingerprint.json")
        words, command = "2 of 8 cases are not prepared, the first is toy_6", "mambino preprocess"
    with pytest.raises(DataError, match=words) as caught:
        train(work, SHORT)
    assert command in caught.value.hint


def test_cases_prepared_for_another_plan_are_refused(work):
    write(planned(spacing=(2.0, 1.0)), work / "plan.json")
    with pytest.raises(DataError, match="case toy_0 was prepared with other settings"):
        train(work, SHORT)


def test_a_damaged_case_is_named(work):
    (work / "prepared" / "2d" / "toy_3.image.b2nd").write_bytes(b"nothing")
    with pytest.raises(FileFormatError, match="toy_3"):
        train(work, SHORT)


def test_a_folder_that_cannot_be_written_to_is_named(work):
    (work / "runs").write_text("in the way")
    with pytest.raises(FileFormatError, match=r"2d-unet-0.* cannot be written"):
        train(work, SHORT)


def test_a_log_that_cannot_be_written_is_named(work):
    log = work / "runs" / "2d-unet-0" / "log.jsonl"

    def block(_epoch):
        log.unlink(missing_ok=True)
        log.mkdir()

    with pytest.raises(FileFormatError, match=r"log\.jsonl cannot be written") as caught:
        train(work, SHORT, on_epoch=block)
    assert "--resume" in caught.value.hint


def test_a_fold_that_does_not_exist_is_refused(work):
    with pytest.raises(OptionError, match="there is no fold 3 of 3"):
        train(work, replace(SHORT, fold=3))


def test_a_typo_in_the_plan_is_named(work):
    text = (work / "plan.json").read_text().replace('"patch"', '"pach"')
    (work / "plan.json").write_text(text)
    with pytest.raises(FileFormatError, match=r"plan\.json is not a valid plan"):
        train(work, SHORT)


@pytest.mark.parametrize(
    ("changes", "words", "hint"),
    [
        ({"name": "unett"}, "there is no network 'unett'", "did you mean unet"),
        ({"options": {"featurs": (4, 8)}}, "the network unet has no option 'featurs'; it has features", "did you mean"),
        ({"options": {"features": (4,)}}, "features needs at least 2 stages, got 1", "correct "),
        (
            {"options": {"features": 4}},
            r"the network unet cannot be made with the options {'features': 4}",
            "correct ",
        ),
        ({"options": {"features": (4, -8)}}, "the network unet cannot be made with the options", "correct "),
    ],
)
def test_a_network_that_cannot_be_built_is_named_with_the_plan(work, changes, words, hint):
    network = replace(config().network, **changes)
    write(replace(planned(), configs={"2d-unet": replace(config(), network=network)}), work / "plan.json")
    with pytest.raises(OptionError, match=rf"plan\.json, configuration 2d-unet: .*{words}") as caught:
        train(work, SHORT)
    assert hint in caught.value.hint
    assert "plan again" in caught.value.hint
    assert not (work / "runs").exists()


def test_a_patch_that_the_network_cannot_take_is_the_fault_of_the_plan(work):
    write(planned(patch=(17, 14)), work / "plan.json")
    words = r"2d-unet: the sides of the patch \(17, 14\) must be multiples of \(2, 2\), as its network unet needs"
    with pytest.raises(OptionError, match=words) as caught:
        train(work, SHORT)
    assert "make it (16, 14)" in caught.value.hint


def several():
    two, three = config(), config(3)
    mamba = replace(three, network=replace(three.network, name="lightm_unet"))
    return replace(planned(), default="3d-unet", configs={"2d-unet": two, "3d-unet": three, "3d-lightm_unet": mamba})


@pytest.mark.parametrize(
    ("name", "model", "expected"),
    [
        (None, None, "3d-unet"),
        ("3d", None, "3d-unet"),
        ("2d", None, "2d-unet"),
        ("3d", "lightm_unet", "3d-lightm_unet"),
        (None, "lightm_unet", "3d-lightm_unet"),
        ("3d-lightm_unet", None, "3d-lightm_unet"),
        ("3d-lightm_unet", "lightm_unet", "3d-lightm_unet"),
    ],
)
def test_a_configuration_is_found_by_dimension_and_network(name, model, expected):
    assert choose_config(several(), name, model) == expected


@pytest.mark.parametrize(
    ("name", "model"), [("4d", None), ("2d", "lightm_unet"), ("3d-unet", "lightm_unet"), ("3d-x", None)]
)
def test_an_unknown_configuration_is_refused_with_those_there_are(name, model):
    with pytest.raises(OptionError, match="the plan has no configuration") as caught:
        choose_config(several(), name, model)
    assert "2d-unet, 3d-unet, 3d-lightm_unet" in caught.value.hint


def test_a_dimension_with_several_networks_and_no_default_must_be_named():
    plan = replace(several(), default="2d-unet", labels=Labels(names={"a": (1,), "b": (2,)}))
    with pytest.raises(OptionError, match="the plan has 2 configurations 3d") as caught:
        choose_config(plan, "3d", None)
    assert "3d-unet, 3d-lightm_unet" in caught.value.hint


def tensors(bundle, part=""):
    return {name: x for name, x in load(bundle).network.state_dict().items() if name.startswith(part)}


def test_a_run_may_start_from_another_bundle_and_says_what_it_took(work):
    before = tensors(train(work, SHORT).rename(work / "before.safetensors"))
    (work / "runs").rename(work / "runs-before")
    other = planned(recipe={"augmentation": "light", "rate": 1e-30})
    write(replace(other, labels=Labels(names={"dark": (1,), "other": (2,)})), work / "plan.json")
    seen = []
    model = train(work, replace(SHORT, init=work / "before.safetensors"), on_init=seen.append)
    (started,) = seen
    assert json.loads((model.parent / "init.json").read_text())["loaded"] == started.loaded
    after = tensors(model)
    assert set(started.left) == {name for name in after if not torch.equal(after[name], before[name])}
    assert all(name.startswith("decoder.heads.") for name in started.left)


def test_a_bundle_is_tuned_on_other_labels_and_channels(work):
    one = planned().configs["2d-unet"]
    spec = replace(one.network, in_channels=3, out_channels=5)
    scheme = one.normalise * 3
    labels = Labels(names={name: (n,) for n, name in enumerate("abcd", 1)})
    config_ = replace(one, network=spec, normalise=scheme)
    save(tiny_bundle(config_, labels=labels, channels=("red", "green", "blue")), work / "before.safetensors")
    before = tensors(work / "before.safetensors")
    seen = []
    model = train(work, replace(SHORT, epochs=6, init=work / "before.safetensors"), on_init=seen.append)
    (started,) = seen
    stem = next(iter(before))
    assert tuple(started.adapted) == (stem,)
    assert all(name.startswith("decoder.heads.") for name in started.left)
    made = load(model)
    assert (made.labels, made.channels) == (TWO, ("light",))
    assert tensors(model)[stem].shape[1] == 1
    logged = lines(model.parent)
    assert logged[-1]["loss"] < logged[0]["loss"]


def test_weights_of_another_network_are_refused_before_anything_is_written(work):
    (work / "none.safetensors").write_bytes(b"none")
    with pytest.raises(WeightsError, match=r"none\.safetensors is not a bundle"):
        train(work, replace(SHORT, init=work / "none.safetensors"))
    assert not list((work / "runs").glob("[!.]*"))


def test_a_frozen_encoder_keeps_its_weights_and_learns_afterwards_also_in_a_run_that_was_stopped(work):
    def press(epoch):
        if epoch.number == 1:
            os.kill(os.getpid(), signal.SIGINT)

    start = train(work, SHORT).rename(work / "start.safetensors")
    options = replace(SHORT, init=start, freeze_encoder=1)
    runs = work / "runs" / "2d-unet-0"
    shutil.rmtree(runs)
    frozen = tensors(train(work, replace(options, epochs=1)))
    for name, tensor in tensors(start).items():
        assert torch.equal(frozen[name], tensor) is name.startswith("encoder."), name
    shutil.rmtree(runs)
    whole = tensors(train(work, options))
    assert not any(torch.equal(whole[name], x) for name, x in frozen.items() if name.endswith("weight"))
    shutil.rmtree(runs)
    with pytest.raises(KeyboardInterrupt):
        train(work, options, on_epoch=press)
    resumed = tensors(train(work, replace(options, init=None, resume=True)))
    assert all(torch.equal(resumed[name], x) for name, x in whole.items())


def test_a_network_without_an_encoder_cannot_have_it_frozen(work, monkeypatch):
    know(monkeypatch)
    spec = NetworkSpec(name="tiny", dim=2, in_channels=1, out_channels=3, options={})
    write(planned(network=spec), work / "plan.json")
    with pytest.raises(OptionError, match=r"--freeze-encoder 2: the network tiny has no part that is its encoder"):
        train(work, replace(SHORT, freeze_encoder=2))


def test_a_log_line_that_is_no_line_of_ours_belongs_to_no_epoch():
    for line in ("[" * 100_000, '{"number"', "[1]", '{"number": null}', '{"number": 1e999}', ""):
        assert number_of(line) > 1 << 50
    assert number_of('{"number": 3}') == 3
