"""What the benchmarks share: taking turns, medians, peaks of memory, and the form of a row.

A row is {"case", "direction", "contender", "threads", "median_s", "peak_mb"}.
"""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

Row = dict[str, object]
HEADER = "| {} | direction | threads | contender | median ms | times {} | peak MB |\n|---|---|---|---|---|---|---|"


def describe(device: str = "cpu") -> None:
    """Print what is measured on."""
    if device == "cuda":
        print(f"{torch.cuda.get_device_name()}; torch {torch.__version__}")
        return
    load = f"; load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    print(f"{processor()}, {os.cpu_count()} cores; torch {torch.__version__}{load}")


def processor() -> str:
    """Return the name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def resident(*, reset: bool = False) -> float:
    """Return the most memory this process had since the last reset (MB); 0 where the system does not say."""
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0.0
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1000


def timed(call: Callable[[], object], device: str = "cpu") -> float:
    """Time one call (s); a short one as it is right after another, with threads, caches and memory in use.

    On a GPU that is where the next call waits in the queue. On a processor, what ran before a short call by another
    contender doubles its time: threads sleep, and the system has taken back memory that lay idle.
    """
    if device == "cuda":
        torch.cuda.synchronize()
    begin = time.perf_counter()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    elapsed = time.perf_counter() - begin
    if elapsed >= SHORT:
        return elapsed
    if device == "cuda":
        return queued(call)
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


SHORT = 0.1
"""Calls of less than so many seconds are repeated at once and timed then; in a GPU's queue several together."""


def queued(call: Callable[[], object], repeats: int = 10) -> float:
    """Return the mean time of a call on the GPU (s), with several in its queue one behind the other."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(repeats):
        call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3 / repeats


def interleaved(
    calls: Mapping[str, Callable[[], object]], rounds: int, device: str = "cpu", slow: float = 1.0
) -> dict[str, list[float]]:
    """Time all contenders round by round, after one round to warm up; what takes longer than `slow` is called once."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    if device == "cuda":
        for call in calls.values():
            call()  # what is compiled when first called is compiled now
    for _ in range(rounds + 1):
        for name, call in calls.items():
            if not times[name] or times[name][-1] <= slow:
                times[name].append(timed(call, device))
    return {name: found[1:] or found for name, found in times.items()}


def rows_of(
    case: str,
    direction: str,
    threads: int,
    times: Mapping[str, Sequence[float]],
    peaks: Mapping[str, float],
    against: str,
) -> list[Row]:
    """Print a line for each contender, with its ratio to one of them, and return the rows."""
    medians = {name: statistics.median(found) for name, found in times.items()}
    rows: list[Row] = []
    for name, median in medians.items():
        ratio, peak = median / medians[against], peaks.get(name)
        shown = f"{peak:.0f}" if peak is not None else ""
        print(f"| {case} | {direction} | {threads} | {name} | {1e3 * median:.2f} | {ratio:.2f} | {shown} |", flush=True)
        row = {"case": case, "direction": direction, "contender": name, "threads": threads, "median_s": median}
        rows.append(row | {"peak_mb": peak})
    return rows


def write(rows: Sequence[Row], path: Path | None) -> None:
    """Write the rows as JSON where a path is given."""
    if path:
        path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
