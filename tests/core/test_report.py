"""A choice has one chosen network, and says what the scored cases are to it."""

import pytest

from mambino.core.report import Candidate, Choice
from mambino.errors import OptionError

FIRST = Candidate(config="3d-unet", network="unet", parameters=10, validation=0.5, chosen=True)
SECOND = Candidate(config="3d-lightm_unet", network="lightm_unet", parameters=5, validation=0.4)


def test_one_network_is_chosen_and_one_made_the_masks():
    choice = Choice(cases="test", made_by="3d-lightm_unet", candidates=(FIRST, SECOND))
    assert (choice.chosen, choice.maker) == (FIRST, SECOND)
    with pytest.raises(OptionError, match="one of 1 candidates is chosen, no more and no less"):
        Choice(cases="test", made_by="3d-lightm_unet", candidates=(SECOND,))
    with pytest.raises(OptionError, match="2d-unet is not among the 1 candidates"):
        Choice(cases="test", made_by="2d-unet", candidates=(FIRST,))


def test_a_test_score_belongs_to_whoever_made_the_masks():
    choice = Choice(cases="test", made_by="3d-lightm_unet", candidates=(FIRST, SECOND)).scored(0.3)
    assert [candidate.test for candidate in choice.candidates] == [None, 0.3]


def test_held_out_cases_give_no_test_score_and_are_said_to_have_chosen():
    choice = Choice(cases="held out", made_by="3d-unet", candidates=(FIRST, SECOND))
    assert choice.scored(0.3) == choice
    assert "held-out training cases, by which the network was chosen" in choice.said
    alone = Choice(cases="held out", made_by="3d-unet", candidates=(FIRST,))
    assert "by which its training was watched" in alone.said
