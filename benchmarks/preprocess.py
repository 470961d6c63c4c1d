"""Preparing a data set with the command of a user: seconds from start to end of the process.

    python benchmarks/preprocess.py DATA [--json FILE] [--repeats 3]

DATA is a data set, planned once before anything is measured. "all cases" starts with an empty folder,
"nothing to do" starts again with everything there.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COMMAND = (sys.executable, "-m", "mambino")


def main() -> None:
    """Plan, measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        subprocess.run([*COMMAND, "plan", str(options.data), "-o", name], check=True, stdout=subprocess.DEVNULL)
        rows = [row for workers in (1, 2) for row in measured(work, workers, options.repeats)]
    print("| case | processes | s | CPU s | largest process, MB |")
    print("|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['case']} | {row['threads']} | {row['median_s']:.2f} | {row['cpu_s']:.2f} | {row['peak_mb']:.0f} |"
        )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


def measured(work: Path, workers: int, repeats: int) -> list[dict[str, object]]:
    """Prepare from nothing and again, some times."""
    fresh, again = [], []
    for _ in range(repeats):
        shutil.rmtree(work / "prepared", ignore_errors=True)
        fresh.append(once(work, workers))
        again.append(once(work, workers))
    return [
        {
            "case": case,
            "contender": "mambino",
            "threads": workers,
            "median_s": statistics.median(wall for wall, _, _ in runs),
            "cpu_s": statistics.median(processor for _, processor, _ in runs),
            "peak_mb": max(peak for _, _, peak in runs),
        }
        for case, runs in (("all cases", fresh), ("nothing to do", again))
    ]


def once(work: Path, workers: int) -> tuple[float, float, float]:
    """Run the command; return wall seconds, processor seconds, and the peak of its largest process (MB)."""
    command = [*COMMAND, "preprocess", str(work), "--workers", str(workers)]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    if not hasattr(os, "wait4"):  # Windows
        process.wait()
        return time.perf_counter() - start, 0.0, 0.0
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} ended with {os.waitstatus_to_exitcode(status)}")
    peak = usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    return time.perf_counter() - start, usage.ru_utime + usage.ru_stime, peak


if __name__ == "__main__":
    main()
