"""How long `import mambino` and `mambino --help` take: fresh processes, medians, next to an empty one.

python benchmarks/startup.py [--json FILE]
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

COMMANDS = {
    "python": ["-c", "pass"],
    "import mambino": ["-c", "import mambino"],
    "mambino --help": ["-m", "mambino", "--help"],
    "mambino train --help": ["-m", "mambino", "train", "--help"],
    "import torch": ["-c", "import torch"],
}


def main() -> None:
    """Measure, interleaved, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(options.rounds):
        for name, words in COMMANDS.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, *words], check=True, capture_output=True)
            times[name].append(time.perf_counter() - start)
    rows = [{"case": name, "contender": "mambino", "median_s": median(taken)} for name, taken in times.items()]
    empty = rows[0]["median_s"]
    print(f"{'':24}{'median s':>10}{'over python s':>16}")
    for row in rows:
        print(f"{row['case']:24}{row['median_s']:10.3f}{row['median_s'] - empty:16.3f}")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
