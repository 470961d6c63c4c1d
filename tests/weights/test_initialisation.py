"""A network started from another one's weights holds them tensor by tensor, and says what it took, skipped and left."""

from dataclasses import replace

import pytest
import torch

from mambino.core.labels import Labels
from mambino.core.plan import NetworkSpec, Normalise
from mambino.errors import WeightsError
from mambino.models import build
from mambino.weights.initialisation import initialise
from tests.models.cases import SMALLEST
from tests.tiny import tiny_bundle, tiny_config

SMALL = {"width": 16, "depths": (1, 2), "state_size": 2}


def spec(name, channels=3, classes=2, dim=2, **options):
    return NetworkSpec(name=name, dim=dim, in_channels=channels, out_channels=classes, options=SMALL | options)


def source(of):
    """Return a bundle of a network whose tensors are all different from fresh ones."""
    channels = of.in_channels
    config = tiny_config(of.dim, channels, 2)
    bundle = tiny_bundle(replace(config, network=of, normalise=(Normalise(scheme="none"),) * channels), seed=5)
    with torch.no_grad():
        for tensor in bundle.network.state_dict().values():
            tensor.add_(torch.rand_like(tensor)) if tensor.is_floating_point() else None
    return bundle


def started(target, of, labels=None, **options):
    network, bundle = build(target), source(of)
    fresh = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    found = initialise(network, target, bundle, labels, **options)
    return network.state_dict(), fresh, bundle.network.state_dict(), found


def test_every_tensor_is_loaded_as_it_is_or_left_as_it_was():
    now, fresh, theirs, found = started(spec("swin_umamba_dagger", decoder_depth=1), spec("vmamba"))
    assert found.loaded.keys() | set(found.left) == now.keys()
    for name, origin in found.loaded.items():
        assert torch.equal(now[name], theirs[origin])
    for name in found.left:
        assert torch.equal(now[name], fresh[name])
    assert {name.split(".")[0] for name in found.loaded} == {"embed", "encoder"}
    assert set(theirs) - set(found.loaded.values()) == set(found.skipped)
    assert found.skipped["norm.weight"] == "it is of the classifier"


def test_the_decoder_of_vm_unet_mirrors_the_encoder_it_was_started_from():
    target = spec("vm_unet", depths=(1, 1), decoder_depths=(2, 1))
    now, fresh, theirs, found = started(target, spec("vmamba", depths=(1, 2)))
    for name, tensor in theirs.items():
        if name.startswith("encoder.stages.1."):
            assert torch.equal(now[name.replace("encoder.stages.1", "decoder.0")], tensor)
    assert found.loaded["decoder.1.0.norm.weight"] == "encoder.stages.0.0.norm.weight"
    assert torch.equal(now["head.weight"], fresh["head.weight"])
    assert not any(name.startswith(("expands", "final", "head")) for name in found.loaded)


@pytest.mark.parametrize("slip", [False, True])
def test_swin_umamba_leaves_the_patch_embedding_out_but_for_the_slip_of_its_authors(slip):
    now, fresh, theirs, found = started(spec("swin_umamba"), spec("vmamba"), slip=slip)
    taken = {name for name in found.loaded if name.startswith("embed.")}
    assert taken == ({"embed.norm.bias"} if slip else set())
    assert torch.equal(now["embed.norm.bias"], (theirs if slip else fresh)["embed.norm.bias"])
    assert torch.equal(now["embed.norm.weight"], fresh["embed.norm.weight"])


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_an_image_with_equal_channels_gives_what_it_gave_through_the_old_stem(channels):
    target, of = spec("swin_umamba_dagger", channels, decoder_depth=1), spec("vmamba", 3)
    network, bundle = build(target), source(of)
    found = initialise(network, target, bundle)
    image = torch.randn(1, 1, 8, 8)
    embedded = network.embed(image.expand(-1, channels, -1, -1))
    torch.testing.assert_close(embedded, bundle.network.embed(image.expand(-1, 3, -1, -1)))
    assert found.adapted == {
        "embed.proj.weight": f"mean over 3 input channels, times 3/{channels}, for each of {channels}"
    }


def test_a_head_is_kept_for_the_same_labels_and_fresh_for_others():
    one = NetworkSpec(name="unet", dim=2, in_channels=1, out_channels=2, options=SMALLEST["unet"])
    bundle = source(one)
    network = build(one)
    assert not initialise(network, one, bundle, bundle.labels).left
    found = initialise(build(one), one, bundle, Labels(names={"another": (1,)}))
    assert found.left
    assert set(found.skipped.values()) == {"an output layer, for other labels"}
    more = replace(one, out_channels=5)
    found = initialise(build(more), more, bundle, Labels(names={str(i): (i,) for i in range(1, 5)}))
    assert found.left == tuple(found.skipped)
    assert len(found.loaded) + len(found.left) == len(network.state_dict())


def test_weights_that_fit_nowhere_are_refused_by_the_names_of_both_networks():
    with pytest.raises(
        WeightsError,
        match=r"nothing in a bundle of vmamba \(\d+ tensors\) fits unet in 2D, whose tensors have other names",
    ):
        started(NetworkSpec(name="unet", dim=2, in_channels=3, out_channels=2, options={}), spec("vmamba"))


def test_the_published_sizes_give_the_tensors_that_the_authors_count():
    """VM-UNet from VMamba-S: 117 of the encoder, 91 of the decoder; Swin-UMamba from VMamba-T: all of the stages."""
    small = NetworkSpec(name="vmamba", dim=2, in_channels=3, out_channels=1000, options={"depths": (2, 2, 27, 2)})
    tiny = replace(small, options={})

    def counted(name, of):
        target = replace(tiny, name=name, out_channels=2)
        with torch.device("meta"):
            bundle = tiny_bundle(replace(tiny_config(2, 3), network=of))
            return initialise(build(target), target, bundle)

    found = counted("vm_unet", small)
    parts = [name.split(".")[0] for name in found.loaded]
    assert parts.count("embed") + parts.count("encoder") == 117
    assert parts.count("decoder") == 91
    assert sum(name.startswith("encoder.stages.2.") for name in found.skipped) == 25 * 13
    found = counted("swin_umamba", tiny)
    assert len(found.loaded) == 15 * 13 + 3 * 3
    assert set(found.skipped) == {
        *("norm.weight", "norm.bias", "head.weight", "head.bias"),
        *("embed.proj.weight", "embed.proj.bias", "embed.norm.weight", "embed.norm.bias"),
    }
