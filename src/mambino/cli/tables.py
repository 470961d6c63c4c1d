"""What a person reads of the values that verbs return: tables and lines, or JSON."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mambino.cli import console

if TYPE_CHECKING:
    from mambino.core.best import Best
    from mambino.core.calibration import Calibration
    from mambino.core.findings import Findings
    from mambino.core.report import Choice, Report, Statistic
    from mambino.inference.ledger import Entry
    from mambino.models.claims import Claim
    from mambino.models.cost import Cost
    from mambino.models.descriptions import Description
    from mambino.weights.conversion import Conversion
    from mambino.weights.initialisation import Initialisation
    from mambino.weights.published import Published


def show_findings(findings: "Findings") -> None:
    """Print what check found, and where a copy is."""
    for line in findings.repaired:
        console.say(f"repaired  {line}")
    rows = [(f.severity, f.case, f.kind, f.message, f.remedy) for f in findings.findings]
    if rows:
        console.table(["severity", "case", "kind", "finding", "remedy"], rows)
    console.say(f"{findings.errors} errors, {findings.warnings} warnings")
    if findings.copy:
        what = "repaired copy" if findings.repaired else "nothing needed repair; a clean copy was"
        console.say(f"{what} written to {findings.copy}")
    elif findings.errors:
        console.say(f"a copy with what can be mended: mambino check {findings.folder} --repair -o COPY")


def show_start(started: "Initialisation") -> None:
    """Say which parts of a network were started from another one's weights, and which were not."""
    as_they_are = (name for name in started.loaded if name not in started.adapted)
    kinds = {
        "loaded": dict.fromkeys(as_they_are, ""),
        "adapted": started.adapted,
        "skipped": started.skipped,
        "left": dict.fromkeys(started.left, ""),
    }
    console.note(f"started from {started.network}; every tensor is in init.json")
    for kind, tensors in kinds.items():
        counts = Counter((".".join(name.split(".")[:2]), why) for name, why in tensors.items())
        for (part, why), count in counts.items():
            console.note(f"{kind:8} {count:4} of {part}" + (f": {why}" if why else ""))


def show_report(report: "Report", folder: Path, json: bool) -> None:
    """Print the scores of each label, and how networks compare."""
    if json:
        return show_json(report)
    unit = report.unit
    columns = [
        "label",
        "cases",
        "Dice",
        "95 % interval",
        "median",
        "IoU",
        f"HD95 ({unit})",
        f"NSD @ {report.tolerance:g} {unit}",
    ]
    rows = []
    for s in report.summary:
        interval = "-" if s.dice_low is None else f"{s.dice_low:.3f} to {s.dice_high:.3f}"
        rows.append((s.label, s.cases, s.dice, interval, s.dice_median, s.iou, s.hd95, s.nsd))
    console.table(columns, rows)
    if report.choice:
        _print_choice(report.choice)
    return console.say(f"page: {folder / 'report.html'}")


def _print_choice(choice: "Choice") -> None:
    console.say(choice.said)
    columns = ["network", "configuration", "parameters", "validation Dice", "test Dice", ""]
    rows = [
        (c.network, c.config, c.parameters, c.validation, c.test, "chosen" if c.chosen else "")
        for c in choice.candidates
    ]
    if choice.cases == "test":
        return console.table(columns, rows)
    return console.table([*columns[:4], ""], [(*row[:4], row[5]) for row in rows])


def show_best(chosen: "Best", work: Path) -> None:
    """Print how contenders compare on held-out cases, what cleaning gains, and what to predict with."""
    labels = list(chosen.chosen.labels)
    columns = ["contender", "cases", "Dice", "95 % interval", *labels, "behind the first", "s a case", ""]
    rows = [
        (
            c.name,
            c.dice.cases,
            _four(c.dice.mean),
            _interval(c.dice),
            *(_four(c.labels[label].mean) for label in labels),
            f"{_four(c.behind.mean)} ({_interval(c.behind)})" if c.behind else "",
            c.seconds,
            "chosen" if c.chosen else "level" if c.level else "",
        )
        for c in chosen.contenders
    ]
    console.table(columns, rows)
    if chosen.gains:
        rows = [
            (
                g.label,
                g.said,
                _four(g.before),
                _four(g.after),
                f"{_four(g.difference.mean)} ({_interval(g.difference)})",
                "taken" if g.taken else "",
            )
            for g in chosen.gains
        ]
        console.table(["structure", "cleaning tried best", "Dice without", "with", "gain", ""], rows)
    console.say(chosen.reason)
    if any(g.taken for g in chosen.gains):
        console.say(f"With this cleaning its Dice is {_four(chosen.cleaned.mean)} ({_interval(chosen.cleaned)}).")
    for note in chosen.notes:
        console.say(f"note: {note}")
    console.say(f"mambino predict {work / 'best.json'} IMAGES -o MASKS")


def _four(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _interval(found: "Statistic") -> str:
    return "-" if found.low is None or found.high is None else f"{found.low:.4f} to {found.high:.4f}"


def show_speed(entries: Sequence["Entry"], seconds: float) -> None:
    """Say how many images, and voxels of masks, were made a second; nothing where none was."""
    made = [entry for entry in entries if entry.status == "made"]
    if not made:
        return
    precision = " and ".join(sorted({entry.precision for entry in made}))
    rate = sum(entry.voxels for entry in made) / seconds / 1e6
    what = f"{len(made)} images" if len(made) > 1 else "1 image"
    each = f"{seconds / len(made):.2f} s an image, {rate:.3g} million voxels a second"
    console.say(f"{what} in {seconds:.1f} s: {each}, {precision}")


def show_calibration(found: "Calibration") -> None:
    """Print what held-out cases have taught of a network's probabilities."""
    rows = [
        ("cases", found.cases, "held out"),
        ("Dice", found.dice, "mean, on the prepared grid"),
        ("expected Dice", found.expected_dice, "mean, by the probabilities"),
        ("likelihood", f"{found.nll_before:.5f} to {found.nll_after:.5f}", "negative log, a voxel, by the temperature"),
        ("threshold", found.threshold, "of the expected Dice: what is below is not to be trusted"),
        ("margin", found.margin, "by which nine in ten cases fell short at most"),
    ]
    console.table(["", "", ""], rows)
    if found.threshold is None:
        console.say("too few cases to learn when not to trust a prediction")


def show_models(described: "tuple[Description, ...]") -> None:
    """Print the networks: their sizes as counted and as claimed."""
    rows = [(d.name, joined(d.dims), d.counted, d.claimed or "-", d.paper) for d in described]
    console.table(["network", "dims", "parameters counted", "claimed", "paper"], rows)


def show_weights(published: "tuple[Published, ...]") -> None:
    """Print what authors published."""
    rows = [(p.network, p.weights, p.file, p.where, p.licence, p.claimed, p.measured or "-") for p in published]
    console.table(["network", "trained on", "file", "where", "licence", "claimed", "measured"], rows)
    console.say("repositories are those of the papers; whether a file lies there was not looked up")


def show_cost(counted: "Cost") -> None:
    """Print what a network costs."""
    work = counted.operations
    rows = [
        ("parameters", f"{counted.parameters / 1e6:.3f} M", "each tensor once"),
        ("in papers' options", counted.counted or "-", "parameters, as counted by us"),
        ("convolutions", _giga(work.convolutions), "multiply-adds"),
        ("linear layers", _giga(work.linear), "multiply-adds"),
        ("attention", _giga(work.attention), "multiply-adds"),
        ("sum", _giga(work.products), "multiply-adds"),
        ("scan, as VMamba counts", _giga(work.scan), "operations: 9 b l d n + b l d (+ b l d with a gate)"),
        ("scan, exactly", _giga(work.scan_exact), "operations: 7 b l d n + 2 b l d (+ b l d with a gate)"),
        ("sum as papers report it", _giga(work.total), "multiply-adds and operations of the scan added up"),
        ("memory, inference", f"{counted.inference / 2**30:.3f} GiB", "activations, float32, without weights"),
        ("memory, training", f"{counted.training / 2**30:.3f} GiB", "with gradients, a batch of one"),
    ]
    if found := counted.measured:
        rows.append(("measured, inference", f"{found.inference / 2**30:.3f} GiB", "peak of a process, without weights"))
        rows.append(("measured, training", f"{found.training / 2**30:.3f} GiB", "with gradients, without optimiser"))
    console.table([f"{counted.network.name}, {joined(counted.size)}", "", ""], rows)
    for claim in counted.claims:
        if claim.source:
            console.say(f"claimed: {_said(claim)}")
    if not counted.claims and counted.claimed:
        console.say(f"claimed: {counted.claimed}")
    if counted.note:
        console.say(f"note: {counted.note}")


def _said(claim: "Claim") -> str:
    """Return a claim in a line: the numbers, what they are of, where they stand, and why they differ from ours."""
    from mambino.models.claims import told

    images = f" for {claim.images} images" if claim.images > 1 else ""
    numbers = [
        f"{claim.parameters} M" * bool(claim.parameters),
        f"{claim.operations} G{images}" * bool(claim.operations),
    ]
    setting = ", ".join(filter(None, [joined(claim.size), told(claim)]))
    why = f"; {claim.note}" if claim.note else ""
    return f"{', '.join(filter(None, numbers))} at {setting} ({claim.source}){why}"


def show_conversion(made: "Conversion") -> None:
    """Print what came of a checkpoint, and what to check before it is used."""
    network = made.network
    dropped = ", ".join(f"{count} ({why})" for why, count in made.dropped.items())
    rows = [
        ("weights of", made.source),
        ("network", f"{network.name}, {network.dim}D, {network.in_channels} in, {network.out_channels} out"),
        ("options", ", ".join(f"{k}={v}" for k, v in network.options.items())),
        ("parameters", f"{made.parameters:,}"),
        ("plan", made.config or "none in the file"),
        ("left out", dropped or "nothing"),
        ("licence", made.licence),
        ("sha256", made.sha256),
    ]
    console.table(["", ""], rows)
    for sentence in made.check:
        console.say(f"check: {sentence}")
    console.say(f"bundle: {made.bundle}")


def show_json(value: Any) -> None:
    """Print a record as JSON."""
    from mambino.core.records import dump

    console.say(dump(value))


def joined(values: tuple[Any, ...]) -> str:
    """Write numbers with x between them."""
    return " x ".join(f"{value:.4g}" for value in values)


def _giga(count: int) -> str:
    return f"{count / 1e9:.2f} G"
