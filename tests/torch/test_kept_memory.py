"""Memory that is kept between the steps of the built-in loop."""

from __future__ import annotations

import platform
import resource

import pytest
import torch

from kdhooks.torch import kept_memory as room
from kdhooks.torch.kept_memory import kept_memory

CPU = torch.device("cpu")
glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library keeps memory in its own way")


@pytest.fixture(autouse=True)
def nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GLIBC_TUNABLES", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_"):
        monkeypatch.delenv(name, raising=False)


def faults_of_a_step() -> int:
    """Page faults of a step that frees 120 MB at once, after one that made the memory."""

    def step() -> None:
        blocks = [torch.ones(6_000_000) for _ in range(5)]
        del blocks

    step()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@glibc
def test_a_step_finds_the_memory_of_the_last_one() -> None:
    with kept_memory(CPU):
        inside = faults_of_a_step()
    assert inside < 3_000  # pages of 4 KiB, of which the blocks have 29,000
    assert faults_of_a_step() > 5 * inside + 5_000


@glibc
def test_thresholds_go_back_with_the_last_of_several_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, ...]] = []

    class Library:
        def mallopt(self, *what: int) -> int:
            told.append(what)
            return 1

        def malloc_trim(self, pad: int) -> int:
            told.append((pad,))
            return 1

    monkeypatch.setattr(room, "_allocator", Library)
    with kept_memory(CPU):
        with pytest.raises(ValueError, match="inner"), kept_memory(CPU):
            raise ValueError("inner")
        assert told == [(-3, 32 << 20), (-1, 2**31 - 1)]
    assert told[2:] == [(-3, 32 << 20), (-1, 64 << 20), (0,)]


@pytest.mark.parametrize(
    ("name", "value"),
    [("MALLOC_TRIM_THRESHOLD_", "1000000"), ("MALLOC_ARENA_MAX_", "2"), ("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")],
)
def test_what_a_user_has_set_stays(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    assert room._allocator() is None


def test_other_c_libraries_and_devices_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def never() -> None:
        raise AssertionError("asked for")

    monkeypatch.setattr(room, "_allocator", never)
    with kept_memory(torch.device("meta")):
        pass
    monkeypatch.undo()
    monkeypatch.setattr(platform, "libc_ver", lambda: ("musl", "1.2"))
    assert room._allocator() is None
