"""What the pages show works: code calls what there is, commands can be typed, repeated settings are the settings."""

import ast
import inspect
import re
import shlex
import subprocess
import sys
import tomllib

import pytest

from mambino.cli.app import app
from mambino.core.provenance import NOT_FOR_CLINICAL_USE
from tests.places import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PLANNED = {"export", "serve"}  # docs/layout.md lists these commands before they are built


def blocks(language: str) -> list:
    """Return the code blocks of one language, each named after its page."""
    found = []
    for page in PAGES:
        for i, block in enumerate(
            re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
        ):
            found.append(pytest.param(block, id=f"{page.name}-{i}"))
    return found


def commands() -> list:
    """Return the command lines in blocks and in running text, without what a page says beside them."""
    found = {}
    for page in PAGES:
        text = page.read_text()
        lines = [
            line
            for block in re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
            for line in block.splitlines()
        ]
        pieces = [piece for line in lines for piece in re.split(r"\s{2,}| · ", line.strip().removeprefix("$ "))]
        inline = [code for code in re.findall(r"`([^`\n]+)`", text) if len(code.split()) > 2]
        for piece in (*pieces, *inline):
            if piece.startswith("mambino ") and piece.split()[1] not in PLANNED:
                found[f"{page.name}: {piece}"] = piece
    return [pytest.param(piece, id=name) for name, piece in found.items()]


def resolved(node: ast.expr, names: dict) -> object:
    """Return what a name or a chain of attributes stands for; None where it does not begin at an import."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.Attribute):
        owner = resolved(node.value, names)
        return None if owner is None else getattr(owner, node.attr)
    return None


@pytest.mark.parametrize("block", blocks("python"))
def test_code_on_pages_calls_what_there_is(block):
    tree = ast.parse(block)
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    names: dict = {}
    exec(compile(ast.Module([n for n in imports if _ours(n)], []), "page", "exec"), names)
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        if function := resolved(call.func, names):
            keywords = {keyword.arg: None for keyword in call.keywords}
            inspect.signature(function).bind(*call.args, **keywords)


@pytest.mark.parametrize("block", [block for block in blocks("python") if "\nassert " in block.values[0]])
def test_code_that_asserts_on_pages_runs(block):
    exec(compile(block, "page", "exec"), {})


@pytest.mark.parametrize("command", commands())
def test_commands_on_pages_can_be_typed(command):
    words = shlex.split(command, comments=True)[1:]
    if words[-1] not in ("--help", "--version"):
        app.parse_args(words, exit_on_error=False, print_error=False)


@pytest.mark.parametrize("block", blocks("toml"))
def test_settings_on_pages_are_those_of_the_project(block):
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    for tool, values in tomllib.loads(block)["tool"].items():
        assert values == settings[tool]


def test_pages_say_what_the_program_says_of_its_use():
    for page in (ROOT / "README.md", ROOT / "docs" / "index.md", ROOT / "docs" / "dicom.md"):
        assert NOT_FOR_CLINICAL_USE in page.read_text(), page
    others = [p for p in (ROOT / "src").rglob("*") if p.suffix in {".py", ".j2"} and p.name != "provenance.py"]
    assert [p.name for p in others if "clinical use" in p.read_text().lower()] == []


def _ours(node: ast.Import | ast.ImportFrom) -> bool:
    modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
    return all(module.split(".")[0] == "mambino" for module in modules)


def test_the_page_lists_the_files_that_there_are():
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "list_files.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
