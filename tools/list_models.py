"""Write the tables of docs/models.md anew: what is claimed of each network, and what we count.

python tools/list_models.py [--check]
"""

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from mambino.models import list_models
from mambino.models.claims import LIGHTM, LIVER, LUNGS, Claim, claims, told
from mambino.models.cost import Operations
from mambino.models.cost import count as count_network
from mambino.models.descriptions import Description

PAGE = Path(__file__).resolve().parents[1] / "docs" / "models.md"
NETWORKS = ("network", "what it is", "published", "code that it equals", "parameters", "note")
COUNTS = (
    "network", "image", "parameters claimed", "counted", "difference",
    "operations claimed", "multiply-adds", "in the scan", "sum", "difference", "source; why they differ",
)  # fmt: skip
RATIOS = (
    "how many times less than nnU-Net's U-Net", "claimed", "released code", "older code", "as the paper describes it",
)  # fmt: skip
NEAR = 0.02
"""Operations within 2 % agree: what counters make of norms and biases."""


class Counted(NamedTuple):
    """What is claimed, and what we count: parameters, and operations of one image."""

    claim: Claim
    held: int
    work: Operations


def main(words: list[str]) -> int:
    """Write the page, or with --check say whether it is as it should be."""
    text = PAGE.read_text(encoding="utf-8")
    wanted = written(text)
    if "--check" in words:
        if text != wanted:
            print("docs/models.md states other numbers, or words, than are counted: run python tools/list_models.py")
        return int(text != wanted)
    PAGE.write_text(wanted, encoding="utf-8")
    return 0


def written(text: str) -> str:
    """Return the page with its three tables made anew."""
    counts = [counted(claim) for claim in claims()]
    tables = {
        "networks": (NETWORKS, map(network_row, list_models())),
        "counts": (COUNTS, map(count_row, counts)),
        "ratios": (RATIOS, ratio_rows(counts)),
    }
    for name, (columns, rows) in tables.items():
        begin, end = f"<!-- {name}: written by tools/list_models.py -->\n", f"\n<!-- end of {name} -->"
        before, rest = text.split(begin)
        after = rest.split(end)[1]
        text = before + begin + "\n".join(["", line(columns), line(["---"] * len(columns)), *rows, ""]) + end + after
    return text


def counted(claim: Claim) -> Counted:
    """Count the network of a claim."""
    return Counted(claim, *count_network(claim.network, claim.size))


def line(cells: Sequence[str]) -> str:
    """Return a row of a table."""
    return f"| {' | '.join(cells)} |"


def network_row(described: Description) -> str:
    """Return what a network is."""
    axes = " and ".join(f"{dim}D" for dim in described.dims)
    kind = "" if described.kind == "segmentation" else f"; a {described.kind}"
    paper = re.sub(r"arXiv (\d{4}\.\d{5})", r"[arXiv \1](https://arxiv.org/abs/\1)", described.paper)
    what = f"{described.title}; {axes}{kind}"
    return line([f"`{described.name}`", what, paper, described.code, described.counted, described.note])


def count_row(count: Counted) -> str:
    """Return what is claimed of a network beside what we count."""
    claim, held, work = count
    images = f" for {claim.images} images" if claim.images > 1 else ""
    said = f"{claim.parameters} M" if claim.parameters else ""
    done = f"{claim.operations} G{images}" if claim.operations else ""
    return line([
        f"`{claim.network.name}`",
        image(claim),
        said,
        f"{held / 1e6:.3f} M",
        difference(claim.parameters, held / 1e6),
        done,
        f"{work.products / 1e9:.2f} G",
        f"{work.scan / 1e9:.2f} G" if work.scan else "",
        f"{work.total / 1e9:.2f} G",
        difference(claim.operations, claim.images * work.total / 1e9, NEAR),
        "; ".join(filter(None, [claim.source, told(claim), claim.note])),
    ])  # fmt: skip


def image(claim: Claim) -> str:
    """Return the size of an image, its channels, the classes and what it is of."""
    size = " x ".join(map(str, claim.size))
    data = f" ({claim.data})" if claim.data else ""
    return f"{claim.network.in_channels} x {size}, {claim.network.out_channels} out{data}"


def difference(claimed: str, count: float, near: float = 0.0) -> str:
    """Return how far a count is from a claim (%); nothing where they agree, as far as the claim is printed."""
    if not claimed:
        return ""
    if agrees(claimed, count, near):
        return "agree"
    return f"{100 * (count / float(claimed) - 1):+.0f} %"


def agrees(claimed: str, count: float, near: float = 0.0) -> bool:
    """Return whether a count rounds to a claim, or lies as near as this share of it."""
    digits = len(claimed.partition(".")[2])
    return f"{count:.{digits}f}" == claimed or abs(count / float(claimed) - 1) <= near


def ratio_rows(counts: list[Counted]) -> Iterator[str]:
    """Count the ratios of the LightM-UNet paper's abstract again, of the three networks that it may mean."""
    for data, dim in ((LUNGS, "2D"), (LIVER, "3D")):
        rival, *ours = (
            next(c for c in counts if (c.claim.network.name, c.claim.data) == (name, data) and LIGHTM in c.claim.source)
            for name in ("unet", "lightm_unet", "lightm_unet_legacy", "lightm_unet_paper")
        )
        said = [float(rival.claim.parameters) / float(ours[0].claim.parameters)]
        said.append(float(rival.claim.operations) / float(ours[0].claim.operations))
        yield _ratio(f"parameters, {dim}", f"{said[0]:.0f}", [rival.held / one.held for one in ours])
        products = [rival.work.products / one.work.products for one in ours]
        yield _ratio(f"multiply-adds, {dim}", f"{said[1]:.3g}", products)
        totals = [rival.work.total / one.work.total for one in ours]
        yield _ratio(f"multiply-adds and the scan's operations, {dim}", "", totals)


def _ratio(what: str, claimed: str, ratios: list[float]) -> str:
    return line([what, claimed, *(f"{ratio:.1f}" for ratio in ratios)])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
