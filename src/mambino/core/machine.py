"""What this machine, or the container it runs in, lets a program use."""

import ctypes
import os
import sys
from pathlib import Path, PurePosixPath

_CGROUP = Path("/sys/fs/cgroup")
_OWN_GROUPS = Path("/proc/self/cgroup")
_WINDOWS_COUNTS = ("total", "free", "page", "page_free", "virtual", "virtual_free", "extended")
_UNLIMITED = 1 << 60  # version 1 says "no limit" with a number near 2^63


def cores() -> int:
    """Return how many processor cores this process may use, honouring affinity and container quotas."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota()
    return max(1, min(allowed, quota)) if quota else allowed


def memory() -> float:
    """Return how much more memory this process may take (GiB), honouring limits of containers and of `ulimit -v`."""
    limits = [_free_memory(), _container_memory(), _address_space()]
    return min(limit for limit in limits if limit is not None) / 2**30


def peak() -> float:
    """Return the most memory this process has held so far (GiB); 0 where the system does not say."""
    try:
        import resource  # noqa: PLC0415 - not on Windows
    except ImportError:  # Windows
        return 0.0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def resident() -> float:
    """Return the memory that this process holds and that the system cannot take back by dropping files (GiB)."""
    lines = (line.split() for line in _text(Path("/proc/self/status")).splitlines())
    found = [int(words[1]) for words in lines if words and words[0] in {"RssAnon:", "RssShmem:"}]
    return sum(found) / 2**20 if found else peak()


def _free_memory() -> int:
    info = Path("/proc/meminfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return _windows_memory()


def _windows_memory() -> int:
    class Status(ctypes.Structure):
        _fields_ = (
            ("length", ctypes.c_ulong),
            ("load", ctypes.c_ulong),
            *((name, ctypes.c_ulonglong) for name in _WINDOWS_COUNTS),
        )

    status = Status(length=ctypes.sizeof(Status))
    ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))  # type: ignore[attr-defined,unused-ignore]
    return int(status.free)


def _address_space() -> int | None:
    """Return what is left of the addresses that this process may use (bytes); None where nothing limits them."""
    try:
        import resource  # noqa: PLC0415 - not on Windows
    except ImportError:  # Windows
        return None
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    used = _words(Path("/proc/self/statm"))
    if limit == resource.RLIM_INFINITY or not used:
        return None
    return max(0, limit - int(used[0]) * resource.getpagesize())


def _container_memory() -> int | None:
    """Return what is left below the tightest limit of the groups that this process is in (bytes)."""
    unified, memory_v1 = _groups(""), _groups("memory")
    left = [
        *(_left(group, "memory.max", "memory.current", "inactive_file") for group in unified),
        *(_left(group, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file") for group in memory_v1),
    ]
    return min((some for some in left if some is not None), default=None)


def _left(group: Path, limit: str, used: str, droppable: str) -> int | None:
    """Return what a group may still take (bytes); cached files that can be dropped at once do not count as used."""
    most, now = _number(group / limit), _number(group / used)
    if most is None or now is None or most >= _UNLIMITED:
        return None
    return max(0, most - max(0, now - _statistic(group / "memory.stat", droppable)))


def _quota() -> int | None:
    """Return the cores that the tightest quota of the groups of this process allows, rounded up."""
    quotas = [
        *(_share(*_words(group / "cpu.max")) for group in _groups("")),
        *(_share(*_words(g / "cpu.cfs_quota_us"), *_words(g / "cpu.cfs_period_us")) for g in _groups("cpu")),
    ]
    return min((quota for quota in quotas if quota is not None), default=None)


def _share(*words: str) -> int | None:
    """Return quota over period, rounded up; None without a quota ("max", or -1 in version 1)."""
    if len(words) != 2 or not all(word.isdigit() for word in words):
        return None
    quota, period = map(int, words)
    return -(-quota // period) if quota and period else None


def _groups(controller: str) -> list[Path]:
    """Return the folder of the control group of this process and those of all groups above it, where they are.

    Args:
        controller: of version 1, "memory" or "cpu"; "" for version 2, which has one tree for all of them.
    """
    found = []
    for line in _text(_OWN_GROUPS).splitlines():
        _, names, place = (*line.split(":", 2), "", "")[:3]
        if controller not in names.split(","):
            continue
        # A path with ".." leads out of the container, whose own limits then lie at the root.
        parts = () if ".." in place else PurePosixPath(place).parts[1:]
        for root in _roots(controller, names):
            found += [root.joinpath(*parts[:depth]) for depth in range(len(parts), -1, -1)]
    return found or _roots(controller, controller)


def _roots(controller: str, names: str) -> list[Path]:
    """Return where a tree of groups may be mounted: `memory`, `cpu,cpuacct`, or `unified` beside trees of version 1."""
    places = dict.fromkeys((names, controller)) if controller else ("", "unified")
    return [_CGROUP / place for place in places]


def _statistic(path: Path, name: str) -> int:
    lines = (line.split() for line in _text(path).splitlines())
    return next((int(words[1]) for words in lines if len(words) == 2 and words[0] == name and words[1].isdigit()), 0)


def _number(path: Path) -> int | None:
    words = _words(path)
    return int(words[0]) if len(words) == 1 and words[0].isdigit() else None


def _words(path: Path) -> list[str]:
    return _text(path).split()


def _text(path: Path) -> str:
    """Return what a file of the kernel says; nothing where it is not there, as on other systems."""
    try:
        return path.read_text()
    except OSError:
        return ""
