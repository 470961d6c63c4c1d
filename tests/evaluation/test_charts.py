"""Every case is drawn once, at its value, and what is drawn is well-formed."""

import re
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mambino.evaluation.charts import Line, Row, curves, strips
from mambino.evaluation.statistics import statistic


def row(label: str, values: list[float]) -> Row:
    return Row(label, tuple((f"case {i}", value) for i, value in enumerate(values)), statistic(values))


@given(values=st.lists(st.floats(0, 1), max_size=20), highest=st.sampled_from([None, 1.0]))
@settings(deadline=None)
def test_every_case_is_a_dot_within_the_axis(values, highest):
    drawing = strips([row("x", values)], "Dice", highest=highest)
    places = [float(place) for place in re.findall(r'<circle cx="([\d.]+)"', drawing)]
    assert len(places) == len(values)
    assert all(149.9 <= place <= 696.1 for place in places)
    ElementTree.fromstring(drawing)


def test_names_are_text_and_never_markup():
    drawing = strips([row("<b>&", [0.5])], "a < b")
    assert "<b>" not in drawing
    ElementTree.fromstring(drawing)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=20))
@settings(deadline=None)
def test_a_curve_passes_all_its_points(values):
    drawing = curves([Line("loss", tuple((i + 1.0, v) for i, v in enumerate(values)))], "loss")
    assert drawing.count('class="curve') == 1
    assert re.search(r'<path d="M([^"]*)" class="curve', drawing)[1].count("L") == len(values) - 1
    ElementTree.fromstring(drawing)


def test_a_label_without_a_case_says_so():
    assert "no case" in strips([row("x", []), row("y", [0.5])], "Dice", highest=1.0)


@pytest.mark.parametrize("value", [0.0, 1.0, 37.0])
def test_equal_values_have_an_axis(value):
    ElementTree.fromstring(strips([row("x", [value, value])], "HD95"))
