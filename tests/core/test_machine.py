"""Cores and memory honour what a container allows."""

from mambino.core import machine


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
