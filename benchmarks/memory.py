"""What `predict --memory` takes: a volume segmented in a memory group of the kernel, whose limit kills what exceeds it.

    python benchmarks/memory.py [--json FILE] [--size 1000x512x512] [--classes 5] [--limit 2G] [--patch 64] [--free]

Makes a volume of noise round a few spheres (int16, .nii.gz), a small U-Net with random weights, and runs
`mambino predict --memory LIMIT` in a group of that limit (Linux, with the right to make groups: in a container, often
root). The peak is the group's own count, mapped files included; the kernel takes those back under pressure. `--free`
segments it without a limit too, and compares all voxels.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import nibabel
import numpy as np
import torch
from instruments.measuring import describe, write

from mambino.core.labels import Labels
from mambino.core.plan import Config, NetworkSpec, Normalise
from mambino.core.provenance import Provenance
from mambino.core.recipe import Recipe
from mambino.inference.memory import size_of
from mambino.models import build
from mambino.weights.bundle import Bundle, save

GROUPS = Path("/sys/fs/cgroup")


def main() -> None:
    """Measure one volume, and print a line for each run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--size", default="1000x512x512")
    parser.add_argument("--classes", type=int, default=5)
    parser.add_argument("--limit", default="2G")
    parser.add_argument("--patch", type=int, default=64)
    parser.add_argument("--overlap", type=float, default=0.25)
    parser.add_argument("--free", action="store_true")
    parser.add_argument("--folder", type=Path, help="on a disk with room for four times the volume")
    options = parser.parse_args()
    shape = tuple(map(int, options.size.split("x")))
    describe()
    print("| case | classes | limit | seconds | peak MB of the group | ended |")
    print("|---|---|---|---|---|---|")
    rows = []
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        image, model = volume(folder / "scan.nii.gz", shape), network(folder / "model.safetensors", options)
        for limit in (options.limit, None) if options.free else (options.limit,):
            out = folder / (limit or "free")
            seconds, peak, code = segmented(model, image, out, limit, options.overlap)
            case, shown = f"{options.size} predict", f"{peak / 2**20:.0f}" if peak else ""
            print(f"| {case} | {options.classes} | {limit or 'none'} | {seconds:.0f} | {shown} | {code} |", flush=True)
            row = {"case": case, "direction": "forward", "contender": f"mambino, {limit or 'no limit'}"}
            rows.append(row | {"threads": torch.get_num_threads(), "median_s": seconds, "peak_mb": peak / 2**20})
        if options.free:
            one, two = (nibabel.load(folder / n / "scan.nii.gz") for n in (options.limit, "free"))
            print(f"voxels that differ: {int((np.asarray(one.dataobj) != np.asarray(two.dataobj)).sum())}")
    write(rows, options.json)


def volume(path: Path, shape: tuple[int, ...]) -> Path:
    """Write a volume slice by slice: noise, and a dozen spheres."""
    random = np.random.default_rng(0)
    voxels = np.lib.format.open_memmap(path.with_suffix(".npy"), "w+", np.int16, shape)
    middles = random.uniform(0, 1, (12, 3)) * shape
    sides = np.meshgrid(*(np.arange(n) for n in shape[1:]), indexing="ij")
    for z in range(shape[0]):
        voxels[z] = random.normal(0, 100, shape[1:])
        for number, middle in enumerate(middles):
            near = (z - middle[0]) ** 2 + sum((s - m) ** 2 for s, m in zip(sides, middle[1:], strict=True))
            voxels[z][near < (min(shape) / 8) ** 2] += 100 * (number % 5 + 1)
    nibabel.save(nibabel.Nifti1Image(voxels.transpose(2, 1, 0), np.diag([0.8, 0.8, 1.0, 1.0])), path)
    path.with_suffix(".npy").unlink()
    return path


def network(path: Path, options: argparse.Namespace) -> Path:
    """Write a bundle of a small network with random weights that prefer no class."""
    torch.manual_seed(0)
    features = {"features": (8, 8)}
    spec = NetworkSpec(name="unet", dim=3, in_channels=1, out_channels=options.classes, options=features)
    names = {f"structure {n}": (n,) for n in range(1, options.classes)}
    config = Config(
        dim=3,
        spacing=(1.0, 0.8, 0.8),
        orientation=None,
        crop=False,
        normalise=(Normalise(scheme="zscore"),),
        shape=(64,) * 3,
        patch=(options.patch,) * 3,
        batch=1,
        network=spec,
        recipe=Recipe(),
    )
    provenance = Provenance(dataset="noise", cases=0, versions={})
    save(Bundle(build(spec), config, Labels(names=names), ("CT",), provenance), path)
    return path


def segmented(model: Path, image: Path, out: Path, limit: str | None, overlap: float) -> tuple[float, float, int]:
    """Run the command, and return its seconds, the peak of its group (bytes; 0 without one) and how it ended."""
    command = [sys.executable, "-m", "mambino", "predict", str(model), str(image), "-o", str(out)]
    command += ["--overlap", str(overlap), *(["--memory", limit] if limit else [])]
    begin = time.perf_counter()
    with group(limit) as (join, peak):
        ended = subprocess.run(command, preexec_fn=join, check=False, capture_output=True, text=True)
        if ended.returncode:
            print(ended.stdout[-800:], ended.stderr[-800:], file=sys.stderr)
        return time.perf_counter() - begin, peak(), ended.returncode


@contextmanager
def group(limit: str | None):
    """Make a memory group with a limit, without swap; yield what puts a process into it, and what reads its peak."""
    old = (GROUPS / "memory").is_dir()
    place = GROUPS / ("memory" if old else "") / f"mambino-{time.monotonic_ns()}"
    place.mkdir()
    names = ("memory.limit_in_bytes", "memory.max_usage_in_bytes") if old else ("memory.max", "memory.peak")
    try:
        if limit:
            (place / names[0]).write_text(str(int(size_of(limit))))
            with suppress(OSError):
                (place / ("memory.memsw.limit_in_bytes" if old else "memory.swap.max")).write_text(
                    str(int(size_of(limit))) if old else "0"
                )
        yield lambda: (place / "cgroup.procs").write_text("0"), lambda: float((place / names[1]).read_text())
    finally:
        with suppress(OSError):
            place.rmdir()


if __name__ == "__main__":
    main()
