"""`kdhooks cache info`, `verify` and `prune`, word for word."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest

from kdhooks.cache import Codec, Store, TeacherStore, Tokens, row_keys
from kdhooks.cache.maintenance import info
from kdhooks.cli import main

DRAW = np.random.default_rng(7)


def output(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command."""
    code = main(["cache", *map(str, words)])
    return (code, *capsys.readouterr())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A store of two teachers: 300 rows of logits and maps, and two texts of five tokens."""
    images = DRAW.standard_normal((300, 12), dtype=np.float32)
    with Store(tmp_path / "store", strict=True) as store:
        codecs = {"logits": Codec("float16", top_k=3), "layer3": Codec("int8", pool=(1, 1))}
        about = {"teacher": "ResNet", "precision": "bf16"}
        outputs = TeacherStore(store, "a" * 32, codecs, about=about)
        maps = DRAW.standard_normal((300, 4, 2, 2), dtype=np.float32)
        outputs.store_rows(row_keys(images), {"logits": images, "layer3": maps})
        texts = TeacherStore(store, "b" * 32, {"logits": Codec("bfloat16")})
        values = DRAW.standard_normal((5, 6), dtype=np.float32)
        texts.store_rows([b"one", b"two"], {"logits": Tokens(values, np.array([2, 3]))})
    return tmp_path / "store"


def damage(folder: Path, payload: bytes) -> None:
    """Change a byte, in old copies on free pages as well."""
    (path,) = folder.glob("rows-*.mdb")
    data = path.read_bytes()
    assert payload in data
    path.write_bytes(data.replace(payload, bytes([payload[0] ^ 1]) + payload[1:]))


def test_info(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3 * 3600 + 5)
    size = (next(folder.glob("rows-*.mdb"))).stat().st_size
    spaces = {space.name: space for space in info(folder).spaces}
    bytes_of = {name: f"{spaces[name * 32].bytes / 1024:.1f} KiB" for name in "ab"}
    wide = max(map(len, bytes_of.values()))
    assert output(capsys, "info", folder) == (
        0,
        f"{folder}: 302 rows of 2 teachers, {size / 1024:.1f} KiB\n\n"
        f"name{' ' * 30}teacher       rows  {'size'.ljust(wide)}  first stored  a row holds\n"
        f"{'a' * 32}  ResNet, bf16  300   {bytes_of['a'].ljust(wide)}  3 hours ago   "
        "layer3: int8 [4, 1, 1], averaged to [1, 1]\n"
        f"{' ' * (70 + wide)}logits: float16 [12], the 3 largest\n"
        f"{'b' * 32}  -               2   {bytes_of['b'].ljust(wide)}  3 hours ago   "
        "logits: bfloat16 [6] a token\n",
        "",
    )


def test_info_of_a_damaged_record_and_of_an_empty_store(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damage(folder, b'"about": {"precision"')
    code, out, _ = output(capsys, "info", folder)
    assert code == 0 and out.startswith(f"{folder}: 302 rows of 1 teacher, ")
    assert out.endswith(f"logits: bfloat16 [6] a token\n\n{'a' * 32}: 300 rows, without a readable record\n")
    with Store(folder.with_name("empty"), strict=True):
        pass
    size = next(folder.with_name("empty").glob("rows-*.mdb")).stat().st_size
    assert output(capsys, "info", folder.with_name("empty")) == (
        0,
        f"{folder.with_name('empty')}: 0 rows of 0 teachers, {size / 1024:.1f} KiB\n",
        "",
    )


@pytest.mark.parametrize(
    ("later", "text"), [(5, "just now"), (61, "1 minute ago"), (2 * 86_400 + 9, "2 days ago"), (-50, "just now")]
)
def test_ages(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, later: int, text: str
) -> None:
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + later)
    assert output(capsys, "info", folder)[1].count(f"  {text.ljust(12)}  ") == 2


def test_verify(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert output(capsys, "verify", folder) == (0, "302 rows checked: all is well\n", "")
    with Store(folder, strict=True) as store:
        payloads = store.space("b" * 32).get_many([b"one", b"two"])
    for payload in payloads:
        assert payload is not None
        damage(folder, payload)
    assert output(capsys, "verify", folder) == (
        2,
        f"{'b' * 32}: 2 bad rows; they are never served, and `kdhooks cache prune` removes them\n"
        "302 rows checked: not all is well\n",
        "",
    )
    damage(folder, b'"about": {"precision"')
    assert output(capsys, "verify", folder)[:2] == (
        2,
        f"damaged: the record of the space {'a' * 32} is damaged\n"
        f"{'b' * 32}: 2 bad rows; they are never served, and `kdhooks cache prune` removes them\n"
        "302 rows checked: not all is well\n",
    )


def test_prune(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Store(folder, strict=True) as store:
        (payload,) = store.space("b" * 32).get_many([b"one"])
    assert payload is not None
    damage(folder, payload)
    before = info(folder).bytes
    code, out, error = output(capsys, "prune", folder)
    after = info(folder)
    assert (code, error, after.rows) == (0, "", 301)
    assert out == f"302 rows in {before / 1024:.1f} KiB became 301 rows in {after.bytes / 1024:.1f} KiB\n"
    assert output(capsys, "prune", folder, "--keep", "b" * 32)[0] == 0
    assert [(space.name, space.rows) for space in info(folder).spaces] == [("b" * 32, 1)]
    assert output(capsys, "prune", folder, "--older-than", "1")[0] == 0
    assert info(folder).rows == 1, "it was stored today"
    assert output(capsys, "verify", folder) == (0, "1 rows checked: all is well\n", "")


def test_mistakes_name_the_folder(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("info", "verify", "prune"):
        assert output(capsys, verb, tmp_path / "none") == (
            2,
            "",
            f"kdhooks cache: {tmp_path / 'none'}: there is no store\n",
        )
    assert output(capsys, "prune", folder, "--keep", "c") == (2, "", f"kdhooks cache: {folder}: it has no space c\n")
    (path,) = folder.glob("rows-*.mdb")
    path.write_bytes(b"SQLite format 3\0" * 2000)
    reason = "its file rows-1.mdb is damaged (it is no LMDB file); delete the folder, and it is filled again"
    for verb in ("info", "verify", "prune"):
        assert output(capsys, verb, folder) == (2, "", f"kdhooks cache: {folder}: {reason}\n")
    (folder / "store.json").write_text(json.dumps({"kind": "kdhooks teacher outputs", "format": 9}))
    newer = "it is of format 9, of a newer kdhooks, and this one reads 1; update kdhooks, or name another folder"
    assert output(capsys, "info", folder) == (2, "", f"kdhooks cache: {folder}: {newer}\n")
