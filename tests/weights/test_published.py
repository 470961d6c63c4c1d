"""What is said of published weights names networks of ours, and states nothing as measured that was not."""

import json

from mambino.cli.app import dispatch
from mambino.models import names
from mambino.weights.convert import SOURCES
from mambino.weights.published import list_weights


def test_every_entry_is_of_a_network_that_weights_are_converted_to():
    known = {source.model for source in SOURCES}
    for one in list_weights():
        assert one.network in known & set(names())
        assert one.weights
        assert one.file
        assert one.where.startswith("github.com/")
        assert one.claimed
        assert not one.measured


def test_licences_are_those_of_the_tables_of_keys():
    licences = {source.model: source.licence for source in SOURCES}
    assert all(one.licence == licences[one.network] for one in list_weights())


def test_the_command_prints_the_table_and_the_same_as_json(capsys):
    dispatch(["weights"])
    said = capsys.readouterr().out
    assert "vssmtiny_dp01_ckpt_epoch_292.pth" in said
    assert "was not looked up" in said
    dispatch(["weights", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert len(found) == len(list_weights())
    assert found[0]["network"] == "vmamba"
