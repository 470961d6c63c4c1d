"""Cores and memory honour what a container allows, and every group round it."""

import os

import pytest

from mambino.core import machine

GIB = 2**30


def test_a_process_has_a_core_and_some_memory():
    assert machine.cores() >= 1
    assert 0 < machine.memory() < 1 << 20


def test_a_container_limit_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text("1073741824\n")
    (tmp_path / "memory.current").write_text("536870912\n")
    (tmp_path / "cpu.max").write_text("100000 100000\n")
    assert machine.memory() == 0.5
    assert machine.cores() == 1


def test_no_limit_is_no_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    free = machine.memory()
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1\n")
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert abs(machine.memory() - free) < 1
    assert machine.cores() >= 1


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Make a tree of control groups on a machine with more of everything; return a function that writes one of them."""
    monkeypatch.setattr(machine, "_CGROUP", tmp_path / "cgroup")
    monkeypatch.setattr(machine, "_OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(machine, "_free_memory", lambda: 100 * GIB)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)

    def write(own, groups):
        (tmp_path / "own").write_text(own)
        for place, files in groups.items():
            folder = tmp_path / "cgroup" / place
            folder.mkdir(parents=True, exist_ok=True)
            for name, text in files.items():
                (folder / name).write_text(f"{text}\n")

    return write


def memory_2(limit, used, cache=0):
    stat = f"anon {used}\ninactive_file {cache}\nactive_file 7"
    return {"memory.max": limit, "memory.current": used, "memory.stat": stat}


def memory_1(limit, used, cache=0):
    stat = f"inactive_file 5\ntotal_inactive_file {cache}"
    return {"memory.limit_in_bytes": limit, "memory.usage_in_bytes": used, "memory.stat": stat}


@pytest.mark.parametrize("tightest", ["", "system.slice", "system.slice/job.service"])
def test_the_tightest_group_on_the_way_up_counts(tree, tightest):
    groups = {
        place: {**memory_2("max", 9 * GIB), "cpu.max": "max 100000"}
        for place in ("", "system.slice", "system.slice/job.service")
    }
    groups[tightest] = {**memory_2(4 * GIB, 1 * GIB), "cpu.max": "250000 100000"}
    groups["system.slice/neighbour.service"] = {**memory_2(GIB, GIB), "cpu.max": "1000 100000"}
    tree("0::/system.slice/job.service\n", groups)
    assert machine.memory() == 3
    assert machine.cores() == 3


def test_each_group_has_its_own_use(tree):
    tree(
        "0::/job/step\n",
        {"job": memory_2(8 * GIB, 7 * GIB), "job/step": memory_2(4 * GIB, 1 * GIB)},
    )
    assert machine.memory() == 1


def test_files_in_the_cache_that_can_be_dropped_are_not_used(tree):
    tree("0::/job\n", {"job": memory_2(4 * GIB, 4 * GIB, cache=3 * GIB)})
    assert machine.memory() == 3


def test_version_1_has_a_tree_for_each_controller(tree):
    tree(
        "12:cpu,cpuacct:/slurm/job_7\n5:memory:/slurm/job_7/step_0\n1:name=systemd:/x\n",
        {
            "memory": memory_1(2**63 - 4096, 50 * GIB),
            "memory/slurm": memory_1(64 * GIB, 10 * GIB),
            "memory/slurm/job_7": memory_1(8 * GIB, 6 * GIB, cache=2 * GIB),
            "memory/slurm/job_7/step_0": memory_1(2**63 - 4096, 6 * GIB),
            "cpu,cpuacct": {"cpu.cfs_quota_us": -1, "cpu.cfs_period_us": 100000},
            "cpu,cpuacct/slurm/job_7": {"cpu.cfs_quota_us": 150000, "cpu.cfs_period_us": 50000},
        },
    )
    assert machine.memory() == 4
    assert machine.cores() == 3


def test_version_1_in_a_container_has_its_limits_at_the_root(tree):
    tree(
        "5:memory:/docker/0123\n4:cpu,cpuacct:/docker/0123\n",
        {"memory": memory_1(3 * GIB, GIB), "cpu": {"cpu.cfs_quota_us": 200000, "cpu.cfs_period_us": 100000}},
    )
    assert machine.memory() == 2
    assert machine.cores() == 2


def test_version_2_may_be_mounted_beside_version_1(tree):
    tree("5:pids:/\n0::/user.slice\n", {"unified/user.slice": memory_2(2 * GIB, GIB)})
    assert machine.memory() == 1


@pytest.mark.parametrize("own", ["", "0::/../elsewhere\n", "nonsense\n"])
def test_a_group_that_cannot_be_found_leaves_the_root(tree, own):
    tree(own, {"": {**memory_2(2 * GIB, GIB), "cpu.max": "100000 100000"}})
    assert machine.memory() == 1
    assert machine.cores() == 1


def test_files_that_say_nothing_set_no_limit(tree):
    tree("0::/job\n", {"job": {"memory.max": "", "memory.current": "x", "cpu.max": "0 0"}})
    assert machine.memory() == 100
    assert machine.cores() == 64
