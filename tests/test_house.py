"""The house stands: layers, import costs, public names, file sizes, error messages and their tests."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import mambino
from tests.places import ROOT

SOURCES = sorted((ROOT / "src" / "mambino").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("test_*.py"))
PUBLIC = {
    "check", "plan", "preprocess", "train", "calibrate", "best", "predict", "evaluate", "run", "pretrain",
    "list_models", "cost", "convert", "info", "doctor",
    "CheckOptions", "PlanOptions", "PreprocessOptions", "TrainOptions", "PredictOptions", "EvaluateOptions",
    "RunOptions", "PretrainOptions", "CalibrateOptions", "BestOptions",
    "Grid", "Image", "Segmentation", "Labels", "Case", "Dataset", "Plan", "Config", "NetworkSpec",
    "read_image", "read_labels", "write_labels", "build", "selective_scan",
    "Error", "DataError", "FileFormatError", "MissingExtraError", "OptionError", "ShapeError", "WeightsError",
}  # fmt: skip
BANNED = re.compile(r"(^|_)(utils?|helpers?|common|misc|base|manager|handler|processor)(_|$)")
ERRORS = {"DataError", "FileFormatError", "OptionError", "ShapeError", "WeightsError", "MissingExtraError"}


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)


def test_public_names_are_these_and_at_most_fifty():
    assert set(mambino.__all__) == PUBLIC
    assert len(mambino.__all__) == len(set(mambino.__all__)) <= 50


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_every_public_name_resolves(name):
    assert getattr(mambino, name).__doc__


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'trainer'"):
        mambino.trainer  # noqa: B018


def test_importing_the_package_loads_neither_torch_nor_numpy():
    loaded = python(
        "import sys, mambino; print([m for m in ('torch', 'numpy', 'pydantic', 'scipy') if m in sys.modules])"
    )
    assert loaded.stdout.strip() == "[]"


def test_help_loads_no_torch():
    code = (
        "import sys\nfrom mambino.cli.app import dispatch\n"
        "for words in (['--help'], ['train', '--help'], ['predict', '--help']): dispatch(words)\n"
        "print('loaded', [m for m in ('torch', 'scipy', 'nibabel') if m in sys.modules])"
    )
    assert python(code).stdout.strip().endswith("loaded []")


def test_prepared_arrays_need_no_torch():
    code = (
        "import sys, mambino.imageio, mambino.imageio.folders, mambino.preprocessing, mambino.metrics.surface\n"
        "import mambino.ops.windows, mambino.ops.resample; print('torch' in sys.modules)"
    )
    assert python(code).stdout.strip() == "False"


def test_no_source_file_is_longer_than_400_lines():
    long = {str(p.relative_to(ROOT)): n for p in SOURCES if (n := len(p.read_text().splitlines())) > 400}
    assert long == {}


def test_no_module_has_a_name_that_says_nothing():
    assert [p.name for p in SOURCES if BANNED.search(p.stem)] == []


def test_every_module_begins_with_what_it_is():
    assert [str(p) for p in SOURCES if not ast.get_docstring(ast.parse(p.read_text()))] == []


def test_tests_mirror_the_sources():
    packages = {p.relative_to(ROOT / "tests").parts[0] for p in TESTS if p.parent != ROOT / "tests"}
    built = {p.name for p in (ROOT / "src" / "mambino").iterdir() if p.is_dir() and p.name != "__pycache__"}
    assert built <= packages, built - packages


def error_messages() -> list[tuple[str, str]]:
    """Return file and fixed words of every message of an error of ours that the sources raise."""
    found = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ERRORS and node.args:
                pieces = [
                    n.value for n in ast.walk(node.args[0]) if isinstance(n, ast.Constant) and isinstance(n.value, str)
                ]
                words = max((re.sub(r"\s+", " ", piece).strip(" .,:;'()\"") for piece in pieces), key=len, default="")
                found.append((f"{path.relative_to(ROOT)}:{node.lineno}", words))
    return found


def test_every_error_message_has_a_test_that_matches_its_words():
    # A message counts as tested when three words of its longest fixed piece stand together in a test.
    tested = re.sub(r"[\\\s]+", " ", " ".join(p.read_text() for p in TESTS))
    untested = []
    for place, words in error_messages():
        parts = words.split()
        size = min(3, len(parts))
        runs = [" ".join(parts[i : i + size]) for i in range(len(parts) - size + 1)]
        if words and not any(run in tested for run in runs):
            untested.append(f"{place}: {words}")
    assert untested == []


UNPICKLING = {
    "pickle",
    "_pickle",
    "cPickle",
    "dill",
    "cloudpickle",
    "joblib",
    "shelve",
    "marshal",
    "jsonpickle",
    "yaml",
}


def calls(path: Path) -> list[tuple[str, ast.Call]]:
    """Return every call in a file by its dotted name."""
    return [
        (ast.unparse(node.func), node) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)
    ]


def importers(modules: set[str]) -> set[str]:
    """Return the sources that import any of these modules."""
    found = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            named = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            named += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.partition(".")[0] in modules for name in named):
                found.add(path.relative_to(ROOT / "src" / "mambino").as_posix())
    return found


def test_nothing_is_unpickled_but_by_the_reader_that_calls_nothing():
    assert importers(UNPICKLING) == {"weights/pickles.py"}
    loads = [(path, call) for path in SOURCES for name, call in calls(path) if name == "torch.load"]
    assert len(loads) >= 2
    for path, call in loads:
        given = {word.arg: ast.unparse(word.value) for word in call.keywords}
        assert given["weights_only"] == "True" or (path.name == "pickles.py" and given["pickle_module"] == "_MODULE"), (
            path
        )


def test_nothing_read_is_run():
    forbidden = {
        "eval",
        "exec",
        "compile",
        "np.load",
        "numpy.load",
        "__import__",
        "os.system",
        "torch.jit.load",
        "torch.hub.load",
    }
    assert [(path.name, name) for path in SOURCES for name, _ in calls(path) if name in forbidden] == []
    shells = [call for path in SOURCES for _, call in calls(path) if any(word.arg == "shell" for word in call.keywords)]
    assert shells == []


def test_archives_are_unpacked_in_one_place():
    assert importers({"zipfile", "tarfile", "gzip", "bz2", "lzma"}) == {"core/archives.py"}


def test_nothing_is_fetched():
    assert importers({"urllib", "http", "requests", "httpx", "aiohttp", "ftplib", "socket"}) == set()
