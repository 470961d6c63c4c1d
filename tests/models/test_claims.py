"""Counts equal those made on the originals, the page states them, and what differs from a claim says why."""

import math
import re

import pytest
import torch

from mambino.models import MODELS, build, describe
from mambino.models.claims import claims, stated, told
from mambino.models.cost import parameters
from mambino.models.umamba import Enlarge
from tests.places import ROOT, SHARED
from tools import list_models

PAGE = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
REFERENCE = SHARED / "reference" / "architectures.md"
LITS, ABDOMEN, ENDOSCOPY, LARGE, FLAT = (128, 128, 128), (320, 320), (384, 640), (512, 512), (48, 160, 224)

# Network, channels in and out, image, other options; of the originals: parameters (M), multiply-adds, scan, sum (G).
COUNTS = [
    ("lightm_unet", 1, 3, LITS, "", 5.016, 154.54, 91.86, 246.39),
    ("lightm_unet_legacy", 1, 3, LITS, "", 6.150, 352.96, 91.86, 444.81),
    ("lightm_unet", 3, 2, LARGE, "", 5.012, 47.75, 18.98, 66.74),
    ("lightm_unet_legacy", 3, 2, LARGE, "", 5.376, 61.50, 18.98, 80.48),
    ("vm_unet", 3, 1, (256, 256), "", 27.427561, 5.29, 2.96, 8.25),
    ("vm_unet", 3, 9, (224, 224), "", 27.427761, 4.06, 2.27, 6.33),
    ("vm_unet", 3, 1, (256, 256), "depths (2, 2, 2, 2), decoder_depths (2, 2, 2, 2)", 27.533, 5.66, 3.42, 9.08),
    ("vm_unet", 3, 1, (256, 256), "depths (2, 2, 9, 2), decoder_depths (2, 2, 2, 1)", 35.798, 7.33, 3.76, 11.09),
    ("vm_unet", 3, 1, (256, 256), "depths (2, 2, 9, 2), decoder_depths (2, 9, 2, 2)", 44.273833, 9.74, 5.02, 14.75),
    ("swin_umamba", 1, 14, ABDOMEN, "", 59.889368, 63.74, 3.92, 67.66),
    ("swin_umamba", 3, 8, ENDOSCOPY, "", 59.890688, 153.38, 9.41, 162.79),
    ("swin_umamba", 3, 3, LARGE, "", 59.887068, 163.49, 10.04, 173.52),
    ("swin_umamba_dagger", 1, 14, ABDOMEN, "", 27.497720, 12.35, 6.41, 18.77),
    ("swin_umamba_dagger", 3, 8, ENDOSCOPY, "", 27.496160, 29.54, 15.39, 44.93),
    ("swin_umamba_dagger", 3, 3, LARGE, "", 27.492300, 31.37, 16.42, 47.79),
    ("umamba_bot_2024_01", 1, 14, ABDOMEN, "", 63.344, 45.38, 0.00, 45.38),
    ("umamba_enc_2024_01", 1, 14, ABDOMEN, "", 67.333, 49.28, 1.87, 51.16),
    ("umamba_bot", 1, 14, ABDOMEN, "", 47.533, 41.05, 0.00, 41.06),
    ("umamba_enc", 1, 14, ABDOMEN, "", 47.016, 43.15, 1.26, 44.41),
    ("umamba_bot_2024_01", 3, 8, ENDOSCOPY, "", 63.336, 108.96, 0.01, 108.97),
    ("umamba_enc_2024_01", 3, 8, ENDOSCOPY, "", 67.325, 118.33, 4.49, 122.82),
    ("umamba_bot", 3, 8, ENDOSCOPY, "", 47.525, 98.59, 0.01, 98.60),
    ("umamba_enc", 3, 8, ENDOSCOPY, "", 47.681, 103.97, 3.02, 106.99),
    ("umamba_bot_2024_01", 3, 3, LARGE, "", 86.150, 117.02, 0.00, 117.02),
    ("umamba_enc_2024_01", 3, 3, LARGE, "", 91.835, 127.12, 4.80, 131.91),
    ("umamba_bot", 3, 3, LARGE, "", 64.797, 101.05, 0.00, 101.06),
    ("umamba_enc", 3, 3, LARGE, "", 64.014, 104.98, 1.57, 106.55),
    ("umamba_bot_2024_01", 1, 3, LITS, "", 58.408, 985.41, 0.01, 985.42),
    ("umamba_enc_2024_01", 1, 3, LITS, "", 59.681, 1017.33, 26.08, 1043.41),
    ("umamba_bot", 1, 3, LITS, "", 42.121, 969.95, 0.01, 969.96),
    ("umamba_enc", 1, 3, LITS, "", 42.752, 1001.84, 26.08, 1027.92),
    ("umamba_bot_2024_01", 1, 14, FLAT, "", 57.999, 1182.16, 0.02, 1182.18),
    ("umamba_enc_2024_01", 1, 14, FLAT, "", 59.272, 1219.56, 26.72, 1246.28),
    ("unet", 1, 14, ABDOMEN, "", 33.490, 23.15, 0.00, 23.15),
    ("unet", 3, 8, ENDOSCOPY, "", 33.481, 55.61, 0.00, 55.61),
    ("unet", 3, 3, LARGE, "", 46.327, 59.78, 0.00, 59.78),
    ("unet", 1, 3, LITS, "", 31.196, 477.37, 0.00, 477.37),
    ("resenc_unet", 1, 3, LITS, "", 102.351, 717.54, 0.00, 717.54),
    ("segresnet", 1, 14, ABDOMEN, "", 6.299, 24.30, 0.00, 24.30),
    ("segresnet", 1, 3, LITS, "", 18.796, 579.15, 0.00, 579.15),
    ("unetr", 1, 14, ABDOMEN, "", 87.445, 42.03, 0.00, 42.03),
    ("unetr", 1, 3, LITS, "", 93.030, 175.99, 0.00, 175.99),
    ("swin_unetr", 1, 14, ABDOMEN, "", 25.139, 27.65, 0.00, 27.65),
    ("swin_unetr", 1, 3, LITS, "", 62.187, 762.89, 0.00, 762.89),
    ("swin_unet", 3, 9, (224, 224), "", 27.169, 6.11, 0.00, 6.11),
    ("vmamba", 3, 1000, (224, 224), "depths (2, 2, 9, 2)", 22.893448, 3.68, 1.92, 5.60),
    ("vmamba", 3, 1000, (224, 224), "depths (2, 2, 27, 2)", 44.417416, 7.69, 3.49, 11.18),
    ("vmamba", 3, 1000, (224, 224), "depths (2, 2, 8, 2)", 30.249064, 4.81, 0.06, 4.88),
    ("vmamba", 3, 1000, (224, 224), "depths (2, 2, 5, 2)", 30.705832, 4.72, 0.11, 4.83),
    ("vmamba", 3, 1000, (224, 224), "depths (2, 2, 15, 2)", 50.147752, 8.50, 0.17, 8.67),
    ("vmamba", 3, 1000, (224, 224), "depths (2, 2, 20, 2)", 49.012840, 8.47, 0.10, 8.57),
]
UNUSED = {"unetr": 18432}  # the counts are of MONAI 1.6, whose UNETR has norms that it does not use
PRINTED = 0.005  # half of the last digit of the counts (G)


def key(claim):
    options = re.sub(r", (expand|generation) .*", "", told(claim))
    return (claim.network.name, claim.network.in_channels, claim.network.out_channels, claim.size, options)


COUNTED = {row[:5]: row[5:] for row in COUNTS}


@pytest.mark.parametrize("claim", claims(), ids=lambda claim: f"{claim.network.name}-{claim.data}-{claim.parameters}")
def test_counts_equal_those_of_the_originals_and_the_page_states_them(claim):
    count = list_models.counted(claim)
    compare(count, COUNTED.get(key(claim)))
    assert list_models.count_row(count) in PAGE
    total = claim.images * count.work.total / 1e9
    near = [not claim.parameters or list_models.agrees(claim.parameters, count.held / 1e6)]
    near.append(not claim.operations or list_models.agrees(claim.operations, total, list_models.NEAR))
    assert all(near) or claim.note
    assert bool(claim.parameters or claim.operations) == bool(claim.source)


def compare(count, original):
    if original is None:
        return
    millions, products, scan, total = original
    digits = max(3, len(str(millions).partition(".")[2]))
    assert round((count.held + UNUSED.get(count.claim.network.name, 0)) / 1e6, digits) == millions
    # The original repeats voxels before a pointwise convolution, ours after it, with the same result.
    saved = enlarging(count.claim)
    assert (saved > 0) == (count.claim.network.name in {"umamba_bot", "umamba_enc"})
    found = (count.work.products + saved) / 1e9
    assert found == pytest.approx(products, rel=5e-3, abs=PRINTED)
    assert count.work.scan / 1e9 == pytest.approx(scan, rel=5e-3, abs=PRINTED)
    assert found + count.work.scan / 1e9 == pytest.approx(total, rel=5e-3, abs=PRINTED)


def enlarging(claim):
    """Return the multiply-adds that pointwise convolutions take fewer because voxels are repeated after them."""
    with torch.device("meta"):
        layers = [m for m in build(claim.network).modules() if isinstance(m, Enlarge)]
    times, saved = 2**claim.network.dim, 0
    for depth, layer in enumerate(reversed(layers), start=1):  # the last gives the full image; strides are 2
        coarse = math.prod(claim.size) // times**depth
        saved += (times - 1) * coarse * layer.conv.in_channels * layer.conv.out_channels
    return saved


@pytest.mark.skipif(not REFERENCE.is_file(), reason="the reference is not beside this checkout")
def test_every_count_of_the_reference_is_among_these():
    section = REFERENCE.read_text(encoding="utf-8").split("### 8.1")[1].split("### 8.2")[0]
    rows = [line.split("|")[3:7] for line in section.splitlines() if re.match(r"\| .* \| 1.\d", line)]
    ours = sorted((round(row[5], 3), *row[6:]) for row in COUNTS)
    assert sorted(tuple(map(float, row)) for row in rows) == ours
    assert set(COUNTED) <= {key(claim) for claim in claims()}
    assert len(COUNTED) == len(COUNTS)


def test_the_page_has_these_rows_and_no_others():
    block = PAGE.split("<!-- counts: ")[1].split("<!-- end of counts -->")[0]
    rows = [line for line in block.splitlines() if line.startswith("| `")]
    assert len(rows) == len(claims())
    block = PAGE.split("<!-- networks: ")[1].split("<!-- end of networks -->")[0]
    assert [line for line in block.splitlines() if line.startswith("| `")] == [
        list_models.network_row(one) for one in list_models.list_models()
    ]


def test_the_advertised_ratios_are_counted_again():
    asked = {"unet", "lightm_unet", "lightm_unet_legacy", "lightm_unet_paper"}
    counts = [list_models.counted(claim) for claim in claims() if claim.network.name in asked]
    rows = list(list_models.ratio_rows(counts))
    assert all(row in PAGE for row in rows)
    cells = [[float(cell) for cell in row.split("|")[2:-1] if cell.strip()] for row in rows]
    assert cells[0] == [116, 9.2, 8.6, 45.0]
    assert cells[1] == [21.0, 1.3, 1.0, 6.7]
    assert cells[3] == [47, 6.2, 5.1, 18.3]
    assert cells[4] == [15.8, 3.1, 1.4, 10.8]


def test_how_far_a_claim_is_off_is_said_as_far_as_it_is_printed():
    assert list_models.difference("60", 59.889) == "agree"
    assert list_models.difference("60.0", 59.889) == "-0 %"
    assert list_models.difference("1.09", 5.012) == "+360 %"
    assert list_models.difference("", 5.012) == ""


def test_every_network_has_a_claim_and_its_description_states_it():
    assert {claim.network.name for claim in claims()} == set(MODELS)
    assert (
        describe("swin_umamba").claimed
        == stated("swin_umamba")
        == ("60 M at 320x320, 384x640, 512x512 (Swin-UMamba paper)")
    )
    assert stated("resenc_unet") == ""
    for name in MODELS:
        counts = [parameters_of(claim) for claim in claims(name)]
        for number in re.findall(r"\d+\.\d+(?= M)", describe(name).counted):
            digits = len(number.partition(".")[2])
            assert any(abs(count - float(number)) <= 0.51 * 10**-digits for count in counts), (name, number)


def parameters_of(claim):
    with torch.device("meta"):
        return parameters(build(claim.network)) / 1e6
