"""Checksums of rows: one by one and as a table, of any sizes, against any damage, and by the formula of the page."""

from __future__ import annotations

import numpy as np
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from kdhooks.cache.sealing import seal, seal_many, split, unseal, unseal_many, unsealed_table

ROWS = st.lists(st.tuples(st.binary(min_size=1, max_size=20), st.binary(max_size=600)), min_size=1, max_size=6)


@given(ROWS, st.integers(0, 1 << 30), st.integers(1, 255))
def test_any_flipped_byte_of_any_row_is_found(rows: list[tuple[bytes, bytes]], where: int, flip: int) -> None:
    keys, payloads = [key for key, _ in rows], [payload for _, payload in rows]
    stored = seal_many(keys, payloads)
    assert unseal_many(keys, stored) == payloads
    one = where % len(rows)
    damaged = bytearray(stored[one])
    damaged[(where >> 4) % len(damaged)] ^= flip
    stored[one] = bytes(damaged)
    assert unseal_many(keys, stored) == [*payloads[:one], None, *payloads[one + 1 :]]
    assert unsealed_table(keys, stored) is None


@given(st.integers(1, 40), st.integers(1, 600), st.integers(1, 20), st.integers(0, 1 << 30))
def test_a_table_says_the_same_as_its_rows(count: int, size: int, key_size: int, where: int) -> None:
    draw = np.random.default_rng(where)
    keys, payloads = [draw.bytes(key_size) for _ in range(count)], [draw.bytes(size) for _ in range(count)]
    stored = seal_many(keys, payloads)
    table = unsealed_table(keys, stored)
    assert table is not None and split(table) == payloads == [unseal(*pair) for pair in zip(keys, stored, strict=True)]
    turned = keys[1:] + keys[:1]
    assert (turned == keys) or unsealed_table(turned, stored) is None  # a row under another key


def test_checksums_are_those_of_the_formula() -> None:
    def by_hand(key: bytes, payload: bytes) -> bytes:
        numbers = [xxhash.xxh3_64_intdigest(at.to_bytes(4, "little")) for at in range(3 + 128 + 128)]
        body = payload if len(payload) <= 512 else xxhash.xxh3_64_digest(payload)
        total = numbers[0] + len(key) * numbers[1] + len(payload) * numbers[2]
        for first, part in ((3, key), (131, body)):
            words = part + b"\0" * (-len(part) % 4)
            for at in range(len(words) // 4):
                total += int.from_bytes(words[4 * at : 4 * at + 4], "little") * numbers[first + at]
        return (total % 2**64 >> 32).to_bytes(4, "little")

    draw = np.random.default_rng(1)
    for key_size, size in [(1, 0), (9, 3), (16, 68), (16, 512), (17, 513), (40, 4096), (511, 7)]:
        key, payload = draw.bytes(key_size), draw.bytes(size)
        assert seal(key, payload) == payload + by_hand(key, payload)


def test_rows_of_several_sizes_and_absent_ones() -> None:
    keys, payloads = [b"a", b"b", b"c"], [b"x" * 8, b"y" * 4, b"z" * 12]
    stored = seal_many(keys, payloads)
    assert sum(map(len, stored)) == 3 * len(stored[0]), "together they fill a table of three rows"
    assert unsealed_table(keys, stored) is None
    assert unseal_many(keys, stored) == payloads
    assert unseal_many(keys, [None, *stored[1:]]) == [None, *payloads[1:]]
    assert unseal_many([], []) == [] and unsealed_table([], []) is None
    assert unseal(b"a", b"") is None and unseal(b"a", b"abc") is None
