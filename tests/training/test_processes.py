"""Sums over processes, and what two of them agree on."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from mambino.errors import OptionError
from mambino.training.processes import Processes, check_agreement, check_shares, processes, speaks, whole
from mambino.workflow import run
from tests.training.pairs import launched

CPU = torch.device("cpu")


def loss(weight, samples, total):
    """Return a loss that no mean over parts would give: a quotient of sums."""
    output = samples @ weight
    return (total(output.square().sum()) + 1) / total(output.exp().sum())


def gradient(samples, total):
    weight = nn.Parameter(torch.tensor([0.3, -0.2]))
    value = loss(weight, samples, total)
    value.backward()
    return value.item(), weight


SAMPLES = torch.tensor([[1.0, 2.0], [0.5, -1.0], [-1.5, 0.25]])


def meet(path):
    """Do what the tests below look at; run in each of two processes."""
    with processes(CPU) as all_:
        value, weight = gradient(torch.stack(list(all_.share(list(SAMPLES)))), whole)
        network = nn.ParameterList([weight, nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2, 2))])
        network[2].grad = torch.full((2, 2), 1.0 + all_.rank)
        all_.add_up(network)
        found = {
            "value": value,
            "gradient": weight.grad.tolist(),
            "other": network[2].grad.tolist(),
            "none": network[1].grad,
            "count": whole(torch.tensor(2 + all_.rank)).item(),
            "each": all_.each(all_.rank + 0.5),
            "infinite": all_.each(float("inf") if all_.rank else 1.0),
            "texts": all_.each_text("ä" * all_.rank),
            "silence": all_.each_text(""),
            "clock": all_.clock(),
            "here": all_.here,
            "speaks": speaks(),
        }
        with processes(CPU) as again:  # a group that is there already is joined, and left to whoever made it
            found["again"] = [again.rank, again.count]
        all_.wait()
        try:
            check_agreement(all_, f"plan {all_.rank}")
        except OptionError as error:
            found["disagree"] = str(error)
        check_agreement(all_, "plan")
        path.with_suffix(f".{all_.rank}").write_text(json.dumps(found))


@pytest.fixture(scope="module")
def met(tmp_path_factory):
    path = tmp_path_factory.mktemp("pair") / "found"
    code = f"from pathlib import Path; from tests.training.test_processes import meet; meet(Path({str(path)!r}))"
    script = path.with_suffix(".py")
    script.write_text(code)
    done = launched(script)
    assert done.returncode == 0, done.stderr
    return [json.loads(path.with_suffix(f".{rank}").read_text()) for rank in range(2)]


def test_the_gradients_of_a_whole_loss_add_up_to_the_gradient(met):
    value, weight = gradient(SAMPLES, lambda part: part)
    for found in met:
        assert found["value"] == pytest.approx(value, rel=1e-6)
        assert found["gradient"] == pytest.approx(weight.grad.tolist(), rel=1e-5)
        assert found["other"] == [[3.0, 3.0], [3.0, 3.0]]
        assert found["none"] is None
        assert found["count"] == 5


def test_what_is_told_is_the_same_in_all_processes(met):
    one, two = met
    assert one["each"] == two["each"] == [0.5, 1.5]
    assert one["infinite"] == two["infinite"] == [1.0, float("inf")]
    assert one["texts"] == two["texts"] == ["", "ä"]
    assert one["silence"] == ["", ""]
    assert one["clock"] == two["clock"]
    assert [found["here"] for found in met] == [2, 2]
    assert [found["again"] for found in met] == [[0, 2], [1, 2]]
    assert [found["speaks"] for found in met] == [True, False]


def test_processes_that_read_different_things_are_refused(met):
    words = "process 1 of 2 has another plan, other cases or another state than the first"
    assert [found["disagree"] for found in met] == [words, words]


def test_one_process_is_left_alone():
    part = torch.tensor(2.0, requires_grad=True)
    assert whole(part) is part
    with processes(CPU) as all_:
        assert all_ == Processes(0, 1, 1)
        assert all_.each(3.0) == [3.0]
        assert all_.each_text("x") == ["x"]
        assert all_.share([1, 2]) == [1, 2]
        check_agreement(all_, "x")
    assert speaks()


@pytest.mark.parametrize(("batch", "count"), [(3, 2), (7, 3), (2, 2), (5, 1)])
def test_shares_are_all_of_a_batch_and_none_is_empty(batch, count):
    shares = [Processes(rank, count).share(range(batch)) for rank in range(count)]
    assert sorted(i for share in shares for i in share) == list(range(batch))
    assert {len(share) for share in shares} <= {batch // count, batch // count + 1} - {0}


def test_what_cannot_be_shared_is_refused():
    check_shares(Processes(0, 2), 2, nn.Conv2d(1, 1, 1))
    check_shares(Processes(), 1, nn.BatchNorm2d(1))
    with pytest.raises(OptionError, match="a batch of 1 cannot be shared by 2 processes") as caught:
        check_shares(Processes(0, 2), 1, nn.Conv2d(1, 1, 1))
    assert "at most 1 with torchrun" in caught.value.hint
    network = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1))
    with pytest.raises(OptionError, match="1 normalises over a batch, of which each of 2 processes would see only"):
        check_shares(Processes(0, 2), 2, network)


def test_devices_that_processes_cannot_share_are_refused(monkeypatch):
    monkeypatch.setattr("torch.distributed.is_torchelastic_launched", lambda: True)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(OptionError, match="run was started in 3 processes, each of which would do all of it"):
        run(Path("data"), Path("work"))
    refused = {
        "mps": "several processes learn together on cpu or cuda, not on mps",
        "cuda": "3 processes were started on a machine with 2 GPUs",
    }
    for name, words in refused.items():
        with pytest.raises(OptionError, match=words), processes(torch.device(name)):
            pass
