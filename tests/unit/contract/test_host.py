"""Free memory and the CPU's flags, from files as Linux writes them."""

from pathlib import Path

from tgi_core.contract import available_bytes, cpu_flags


def test_free_memory_respects_the_container(tmp_path: Path) -> None:
    assert available_bytes() > 0
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 9 kB\nMemAvailable:  4096 kB\n")
    assert available_bytes(tmp_path) == 4 << 20
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (group / "memory.max").write_text("max\n")
    (group / "memory.current").write_text("1000\n")
    assert available_bytes(tmp_path) == 4 << 20
    (group / "memory.max").write_text("5000\n")
    assert available_bytes(tmp_path) == 4000
    (group / "memory.stat").write_text("anon 3\ninactive_file 96\n")
    assert available_bytes(tmp_path) == 4096
    (group / "memory.max").write_text("500\n")
    assert available_bytes(tmp_path) == 0


def test_flags_are_read_from_cpuinfo(tmp_path: Path) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text("processor\t: 0\nflags\t\t: fpu amx_tile\n\nprocessor\t: 1\nflags\t\t: x\n")
    assert "amx_tile" in cpu_flags(file)
    assert cpu_flags(tmp_path / "none") == frozenset()
