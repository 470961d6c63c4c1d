"""Resampling a volume and its labels: seconds, memory and differences, beside nnU-Net's default.

    python benchmarks/resample.py [--peer PYTHON] [--json FILE] [--repeats 3] [--scale 1]

PYTHON is an interpreter that has nnunetv2; it is given the same arrays, in a process of its own. Each
row is the median of some runs in one process; `threads` is what the environment allows libraries to
take. The volume is a synthetic CT of 512x512x200 voxels, resampled to 399x399x250.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

FROM, TO = (200, 512, 512), (250, 399, 399)
SPACINGS = {"3d": ((1.0, 1.0, 1.0), (1.0, 1.0, 1.0)), "separate z": ((5.0, 0.8, 0.8), (4.0, 1.0, 1.0))}
CASES = [f"{what}, {how}" for what in ("image", "labels") for how in SPACINGS]


def main() -> None:
    """Measure every case with every contender and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", help="interpreter with nnunetv2")
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="of each side of the volume")
    parser.add_argument("--measure", nargs=3, metavar=("CONTENDER", "CASE", "FOLDER"), help=argparse.SUPPRESS)
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(*options.measure[:2], Path(options.measure[2]), options.repeats)
        return
    if options.make:
        make(options.make, options.scale)
        return
    contenders = [("mambino", sys.executable, 1), ("mambino", sys.executable, 0)]
    contenders += [("nnunetv2", options.peer, threads) for threads in (1, 0) if options.peer]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # In a process of its own: on Linux the peak memory of a process counts that of the one it came from.
        subprocess.run([sys.executable, __file__, "--make", name, "--scale", str(options.scale)], check=True)
        rows = [run(case, *contender, folder, options.repeats) for case in CASES for contender in contenders]
    show(rows)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


def make(folder: Path, scale: float) -> None:
    """Write a CT of smooth organs with noise, its labels, and the shape to resample to."""
    shape, target = (tuple(max(2, round(n * scale)) for n in size) for size in (FROM, TO))
    rng = np.random.default_rng(0)
    z, y, x = np.meshgrid(*[np.linspace(-1, 1, n, dtype=np.float32) for n in shape], indexing="ij", sparse=True)
    labels = np.zeros(shape, np.int16)
    for number in range(1, 6):
        centre, radius = rng.uniform(-0.5, 0.5, 3), rng.uniform(0.1, 0.5, 3)
        distance = sum(((a - c) / r) ** 2 for a, c, r in zip((z, y, x), centre, radius, strict=True))
        labels[distance + 0.1 * np.sin(30 * z) * np.cos(40 * x) < 1] = number
    image = -900.0 + 190 * labels + rng.normal(0, 25, shape)
    np.save(folder / "image.npy", image.clip(-1024, 3071).astype(np.float32)[None])
    np.save(folder / "labels.npy", labels)
    (folder / "shape.json").write_text(json.dumps(target))


def run(case: str, contender: str, python: str, threads: int, folder: Path, repeats: int) -> dict[str, object]:
    """Measure in a process of its own."""
    limits = {f"{name}_NUM_THREADS": str(threads) for name in ("OMP", "OPENBLAS", "MKL")} if threads else {}
    command = [python, __file__, "--measure", contender, case, str(folder), "--repeats", str(repeats)]
    done = subprocess.run(command, env=os.environ | limits, check=True, capture_output=True, text=True)
    row = {"case": case, "contender": contender, "threads": threads or os.cpu_count()}
    row |= json.loads(done.stdout.splitlines()[-1])
    print(f"{case:20} {contender:10} {row['threads']} threads: {row['median_s']:.2f} s", file=sys.stderr)
    (folder / "out.npy").replace(folder / f"{contender}, {case}.npy")
    if contender == "nnunetv2":
        pair = [np.load(folder / f"{who}, {case}.npy", mmap_mode="r") for who in ("mambino", contender)]
        row["difference"] = difference(*pair)
    return row


def measure(contender: str, case: str, folder: Path, repeats: int) -> None:
    """Resample some times; print median seconds and the memory taken beyond the input."""
    what, how = case.split(", ")
    array, target = np.load(folder / f"{what}.npy"), tuple(json.loads((folder / "shape.json").read_text()))
    resample = {"mambino": ours, "nnunetv2": theirs}[contender](what, how)
    resample(array[..., :8, :8, :8], (9, 9, 9))
    before, wall, processor = peak(), [], []
    for _ in range(repeats):
        start, started = time.perf_counter(), time.process_time()
        out = resample(array, target)
        wall.append(time.perf_counter() - start)
        processor.append(time.process_time() - started)
    np.save(folder / "out.npy", out)
    row = {"median_s": statistics.median(wall), "cpu_s": statistics.median(processor), "peak_mb": peak() - before}
    print(json.dumps(row))


def ours(what: str, how: str):
    """Return this package's resampling."""
    from mambino.ops.resample import resize, resize_labels

    axis = 0 if how == "separate z" else None
    function = resize if what == "image" else resize_labels
    return lambda array, shape: function(array, shape, separate_axis=axis)


def theirs(what: str, how: str):
    """Return nnU-Net's default resampling, with the arguments that its plans give it."""
    from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape

    seg, spacings = what == "labels", SPACINGS[how]

    def resample(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        array = array if array.ndim == 4 else array[None]
        order = 1 if seg else 3
        out = resample_data_or_seg_to_shape(array, shape, *spacings, seg, order, 0, force_separate_z=None)
        return out[0] if seg else out

    return resample


def peak() -> float:
    """Return the most memory this process has held (MB); 0 where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def difference(a: np.ndarray, b: np.ndarray) -> str:
    """Say how far two results are apart: HU for images, parts per million for labels."""
    rows = [(x, y) for m, n in zip(a, b, strict=True) for x, y in (zip(m, n, strict=True) if m.ndim > 2 else [(m, n)])]
    if a.dtype.kind == "f":
        return f"{max(np.abs(x - y).max() for x, y in rows):.4f} HU"
    return f"{sum((x != y).sum() for x, y in rows) / a.size * 1e6:.2f} ppm"


def show(rows: list[dict[str, object]]) -> None:
    """Print the rows, each beside ours with as many threads."""
    print("| case | contender | threads | s | CPU s | MB | against mambino | largest difference |")
    print("|---|---|---|---|---|---|---|---|")
    mine = {(row["case"], row["threads"]): row for row in rows if row["contender"] == "mambino"}
    for row in rows:
        own = mine[row["case"], row["threads"]]
        ratio = f"{row['median_s'] / own['median_s']:.1f}x ({row['cpu_s'] / own['cpu_s']:.1f}x CPU)"
        print(
            f"| {row['case']} | {row['contender']} | {row['threads']} | {row['median_s']:.2f} | {row['cpu_s']:.2f} "
            f"| {row['peak_mb']:.0f} | {'' if row is own else ratio} | {row.get('difference', '')} |"
        )


if __name__ == "__main__":
    main()
