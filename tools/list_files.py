"""Write the list of files in docs/layout.md anew, from the first sentence of each module's docstring.

python tools/list_files.py [--check]
"""

import ast
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "layout.md"
PACKAGE = ROOT / "src" / "mambino"
FIRST, LAST = "```\nsrc/mambino/\n", "```\n\nStill to come"
COLUMN, WIDTH = 28, 120


def main(words: list[str]) -> int:
    """Write the page, or with --check say whether it is as it should be."""
    text = PAGE.read_text(encoding="utf-8")
    begin, end = text.index(FIRST) + len(FIRST), text.index(LAST)
    wanted = text[:begin] + "\n".join(listed(PACKAGE, 1)) + "\n" + text[end:]
    if "--check" in words:
        if text != wanted:
            print("docs/layout.md lists other files, or other words, than there are: run python tools/list_files.py")
        return int(text != wanted)
    PAGE.write_text(wanted, encoding="utf-8")
    return 0


def listed(folder: Path, depth: int) -> list[str]:
    """Return the lines of a folder: its modules, then its packages."""
    lines = []
    for path in sorted(folder.glob("*.py")):
        name = f"{'  ' * depth}{path.name}"
        words = textwrap.wrap(first_sentence(path), WIDTH - COLUMN, break_on_hyphens=False)
        lines.append(f"{name:<{COLUMN}}{words[0]}")
        lines += [" " * COLUMN + line for line in words[1:]]
    for inner in sorted(path.parent for path in folder.glob("*/__init__.py")):
        lines += ([""] if depth == 1 else []) + [f"{'  ' * depth}{inner.name}/", *listed(inner, depth + 1)]
    return lines


def first_sentence(path: Path) -> str:
    """Return the first line of the docstring of a module."""
    found = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return found.split("\n", 1)[0]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
