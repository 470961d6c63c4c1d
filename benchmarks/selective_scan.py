"""The selective scan: nanoseconds for each number of state, forward and backward, by size and threads.

    python benchmarks/selective_scan.py [--repeats 5]

Wall and processor time, the best of some runs; the state has 16 numbers a channel.
"""

import argparse
import time

import torch

from mambino.ops.selective_scan import selective_scan

SIZES = ((16384, 64), (89600, 16), (4096, 192), (1400, 64), (175, 128))
STATES = 16


def main() -> None:
    """Measure every size on one thread and on two, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    print("| tokens x channels | threads | forward ns | backward ns | forward cpu ns | backward cpu ns |")
    print("|---|---|---|---|---|---|")
    for length, channels in SIZES:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            row = best(length, channels, repeats)
            print(f"| {length} x {channels} | {threads} | " + " | ".join(f"{value:.1f}" for value in row) + " |")


def best(length: int, channels: int, repeats: int) -> list[float]:
    """Return wall times forward and backward, then processor times, each for one number of the state (ns)."""
    inputs = make(length, channels)
    rows = [once(inputs) for _ in range(repeats + 1)][1:]
    return [min(column) / (length * channels * STATES) * 1e9 for column in zip(*rows, strict=True)]


def make(length: int, channels: int) -> dict[str, torch.Tensor]:
    """Return inputs as a network has them at its start."""
    torch.manual_seed(0)
    shapes = {"u": channels, "delta": channels, "B": STATES, "C": STATES}
    inputs = {name: torch.randn(1, rows, length) for name, rows in shapes.items()}
    inputs["delta"] = torch.rand(1, channels, length) / 10
    inputs["A"] = -torch.arange(1.0, STATES + 1).repeat(channels, 1)
    return {name: x.requires_grad_() for name, x in inputs.items()}


def once(inputs: dict[str, torch.Tensor]) -> tuple[float, float, float, float]:
    """Time one pass forward and back (s): wall, wall, processor, processor."""
    marks = [(time.perf_counter(), time.process_time())]
    y, _ = selective_scan(**inputs)
    marks.append((time.perf_counter(), time.process_time()))
    y.backward(torch.ones_like(y))
    marks.append((time.perf_counter(), time.process_time()))
    (wall, cpu), (wall_1, cpu_1), (wall_2, cpu_2) = marks
    return wall_1 - wall, wall_2 - wall_1, cpu_1 - cpu, cpu_2 - cpu_1


if __name__ == "__main__":
    main()
