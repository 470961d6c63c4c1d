"""The page shows what the report says, whatever the names; logs of training are read strictly."""

from dataclasses import replace

import pytest

from mambino.core.options import EvaluateOptions
from mambino.core.report import Candidate, Choice, Expected, Model, Score
from mambino.errors import FileFormatError
from mambino.evaluation.page import page, read_curves
from mambino.evaluation.report import assemble


def test_names_are_shown_as_text():
    scores = (Score(case="<script>x</script>", label="a & b", found="both", dice=0.5, hd95=1.0, hd95_diagonal=1.0),)
    text = page(assemble(scores, ["a & b"], EvaluateOptions(), dataset="<i>heart"), [], [])
    assert "<script>x" not in text
    assert "&lt;script&gt;x" in text
    assert "a &amp; b" in text
    assert "&lt;i&gt;heart" in text


def test_the_model_and_its_options_head_the_page():
    scores = (Score(case="a", label="x", found="neither"),)
    model = Model(bundles=("12ab",), networks=("unet",), options={"mirror": "yes"})
    text = page(assemble(scores, ["x"], EvaluateOptions(), model=model), [], [])
    assert "Model unet, <code>sha256 12ab" in text
    assert "Predicted with mirror yes" in text
    assert "1 not applicable" in text


@pytest.mark.parametrize("made_by", ["2d-unet", "2d-lightm_unet"])
@pytest.mark.parametrize("cases", ["test", "held out"])
def test_the_page_says_which_network_was_chosen_from_which(cases, made_by):
    scores = (Score(case="a", label="x", found="both", dice=0.5),)
    networks = (
        Candidate(config="2d-unet", network="unet", parameters=12345, validation=0.75, chosen=True),
        Candidate(config="2d-lightm_unet", network="lightm_unet", parameters=678, validation=0.625, test=0.125),
    )
    choice = Choice(cases=cases, made_by=made_by, candidates=networks)
    text = page(replace(assemble(scores, ["x"], EvaluateOptions()), choice=choice), [], [])
    assert f"Masks made by <b>{choice.maker.network}</b>" in text
    assert choice.said in text
    assert "this page cannot know" not in text
    for shown in ("12,345", "678", "0.750", "0.625", "chosen</td>"):
        assert shown in text
    assert ("0.125" in text) == (cases == "test")
    assert ("This network was not chosen: unet was" in text) == (made_by != "2d-unet")


def test_the_page_says_which_masks_the_model_itself_did_not_trust():
    scores = tuple(Score(case=case, label="x", found="both", dice=0.5) for case in "abc")
    sure = (Expected(case="a", dice=0.875, at_least=0.8125, trusted=True), Expected(case="b", dice=0.25, trusted=False))
    text = page(assemble(scores, ["x"], EvaluateOptions(), expected=sure), [], [])
    rows = dict(zip("abc", text.split("<h2>All cases</h2>")[1].split("<tr>")[2:], strict=True))
    assert "said of 1 of 3 cases not to trust its mask:</b>\n      b." in text
    assert "0.875" in rows["a"]
    assert "at least 0.812" in rows["a"]
    assert "0.250" in rows["b"]
    assert [case for case in "abc" if "do not trust" in rows[case]] == ["b"]
    assert "<dt>Expected Dice</dt>" in text


def test_a_page_of_masks_that_nobody_doubted_has_no_word_of_it():
    text = page(assemble((Score(case="a", label="x", found="both", dice=0.5),), ["x"], EvaluateOptions()), [], [])
    assert "Expected" not in text
    assert "trust" not in text


def test_missed_structures_are_counted_beside_the_distance():
    scores = (Score(case="a", label="x", found="missed", dice=0.0, iou=0.0, nsd=0.0, hd95_diagonal=7.5, unit="pixel"),)
    text = page(assemble(scores, ["x"], EvaluateOptions()), [], [])
    assert "1 infinite" in text
    assert "7.50 with diagonals" in text
    assert "∞" in text


def test_a_log_becomes_curves(tmp_path):
    log = tmp_path / "log.jsonl"
    log.write_text('{"number": 1, "loss": 2}\n{"number": 2, "loss": NaN, "dice": 0.5}\n')
    loss, dice = read_curves(log)
    assert (loss.points, dice.points) == (((1.0, 2.0),), ((2.0, 0.5),))


@pytest.mark.parametrize("line", ["{", "[]", '{"number": 1}', '{"loss": null}'])
def test_a_log_of_something_else_is_refused(tmp_path, line):
    (tmp_path / "log.jsonl").write_text(f'{{"loss": 1}}\n{line}\n')
    with pytest.raises(FileFormatError, match="no log of a training run: line 2 has no loss"):
        read_curves(tmp_path / "log.jsonl")
