"""A report defines its numbers, names its limits and picks the cases worth a look."""

import csv
import io

from mambino.core.options import EvaluateOptions
from mambino.core.report import Score
from mambino.evaluation.report import assemble, csv_text, definitions, examples


def scores(*dice: float | None) -> tuple[Score, ...]:
    return tuple(
        Score(case=f"c{i}", label="x", found="neither" if value is None else "both", dice=value)
        for i, value in enumerate(dice)
    )


def test_best_median_and_worst_are_shown():
    report = assemble(scores(0.2, 0.9, None, 0.5, 0.6, 0.7), ["x"], EvaluateOptions())
    assert examples(report) == [("best", "c1"), ("median", "c4"), ("worst", "c0")]


def test_few_cases_are_shown_once_each():
    assert examples(assemble(scores(0.2), ["x"], EvaluateOptions())) == [("only", "c0")]
    assert examples(assemble(scores(0.2, 0.4), ["x"], EvaluateOptions())) == [("best", "c1"), ("worst", "c0")]
    assert examples(assemble(scores(None), ["x"], EvaluateOptions())) == [("only", "c0")]


def test_the_definition_and_the_tolerance_are_said():
    said = definitions(EvaluateOptions(tolerance=1.5, surface="surfel"), "pixel")
    assert "within 1.5 pixels" in said["NSD"]
    assert "DeepMind" in said["Surface"]
    assert "not applicable" in said["Empty masks"]


def test_few_cases_are_noted():
    assert "with 2 they are approximate" in assemble(scores(0.1, 0.2), ["x"], EvaluateOptions()).notes[0]
    assert not assemble(scores(*[0.5] * 50), ["x"], EvaluateOptions()).notes


def test_what_is_not_applicable_is_empty_in_the_table():
    [row] = csv.DictReader(io.StringIO(csv_text(assemble(scores(None), ["x"], EvaluateOptions()))))
    assert (row["found"], row["dice"], row["hd95"]) == ("neither", "", "")
