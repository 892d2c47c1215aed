"""`kdhooks.scaling`: laws of the formulas, numbers worked out by hand, the table, errors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kdhooks.errors import UsageError
from kdhooks.scaling import LLAMA_1B, LLAMA_8B, OPTIMIZERS, PRECISIONS, Model, estimate
from kdhooks.scaling.__main__ import main
from kdhooks.scaling.table import parts, table, ways

SMALL = Model(1000, 4, 8, 10, outside=200)
TEACHER = Model(4000, 4, 16, 10, outside=400)


def test_the_sizes_of_known_models() -> None:
    """Llama 3.1 8B: 32 blocks of 218,112,000 and two tables of 128,256 x 4,096."""
    assert LLAMA_8B.block == 218_112_000 and LLAMA_8B.root == (2 * 128_256 + 1) * 4096
    block = 2 * 2048 * 2048 + 2 * 2048 * 512 + 3 * 2048 * 8192 + 2 * 2048  # a quarter of the heads for keys and values
    assert LLAMA_1B.block == block
    assert LLAMA_1B.root == 128_257 * 2048
    assert SMALL.saved == 16 * 8 and Model(1000, 4, 8, 10, 20, gated=True, outside=0).saved == 8 * 8 + 4 * 20


@pytest.mark.parametrize(
    ("precision", "optimizer", "bytes_each"),
    [("fp32", "sgd", 8), ("fp32", "momentum", 12), ("fp32", "adamw", 16), ("mixed", "adamw", 16), ("bf16", "adamw", 8),
     ("bf16", "lion", 6), ("mixed", "adamw-8bit", 10)],
)  # fmt: skip
def test_bytes_of_a_parameter(precision: str, optimizer: str, bytes_each: int) -> None:
    found = estimate(SMALL, precision=precision, optimizer=optimizer)
    assert found.kept_bytes == 1000 * bytes_each
    shared = estimate(SMALL, precision=precision, optimizer=optimizer, ranks=8, strategy="fsdp")
    assert shared.kept_bytes == 1000 * bytes_each // 8
    assert set(PRECISIONS) == {"fp32", "mixed", "bf16"} and optimizer in OPTIMIZERS


def test_traffic_by_hand() -> None:
    ddp = estimate(SMALL, TEACHER, ranks=4, precision="fp32")
    assert ddp.traffic == {"gradients' all-reduce": 2 * 4000 * 3 // 4}
    fsdp = estimate(SMALL, TEACHER, ranks=4, strategy="fsdp", teaching="sharded", teacher_precision="fp32")
    assert fsdp.traffic == {
        "weights' all-gather": (2 * 800 + 200) * 2 * 3 // 4,
        "gradients' reduce-scatter": 4000 * 3 // 4,
        "teacher's all-gather": 16000 * 3 // 4,
    }
    hybrid = estimate(SMALL, ranks=8, shard_ranks=2, strategy="fsdp", precision="fp32")
    assert hybrid.traffic == {
        "weights' all-gather": (2 * 800 + 200) * 4 // 2,
        "gradients' reduce-scatter": 4000 // 2,
        "gradients' all-reduce": 2 * 2000 * 3 // 4,
    }


def test_laws() -> None:
    """One rank sends nothing, many send a limit; accumulation costs FSDP alone; a stored teacher takes no memory."""
    for strategy in ("ddp", "fsdp"):
        assert estimate(SMALL, TEACHER, strategy=strategy, teaching="sharded").traffic == {}  # type: ignore[arg-type]
    near, far = (estimate(LLAMA_1B, ranks=n, strategy="fsdp").traffic_bytes for n in (64, 1024))
    assert near < far < near * 64 / 63
    one, four = (estimate(SMALL, ranks=4, accumulation=n) for n in (1, 4))
    assert one.traffic == four.traffic and four.flops == 4 * one.flops and one.memory == four.memory
    one, four = (estimate(SMALL, ranks=4, accumulation=n, strategy="fsdp") for n in (1, 4))
    assert four.traffic_bytes == 4 * one.traffic_bytes
    stored = estimate(SMALL, TEACHER, teaching="stored", tokens=7, top_k=3)
    assert (
        stored.kept_bytes == estimate(SMALL).kept_bytes
        and stored.read == 7 * 3 * 6
        and "teacher" not in str(stored.memory)
    )
    assert estimate(SMALL, TEACHER, teaching="stored", tokens=7).read == 7 * 10 * 2
    assert stored.flops == estimate(SMALL, tokens=7).flops == 7 * 6 * 1000
    assert estimate(SMALL, TEACHER, tokens=7).flops == 7 * (6 * 1000 + 2 * 4000)


def test_what_takes_less_memory() -> None:
    given: dict[str, Any] = {"ranks": 8, "strategy": "fsdp", "tokens": 8192}
    plain = estimate(LLAMA_1B, LLAMA_8B, **given)
    saved = 8192 * (8 * 2048 + 4 * 8192) * 2 * 16
    assert plain.memory["activations"] == saved
    less = estimate(LLAMA_1B, LLAMA_8B, checkpointing=True, **given)
    assert less.memory["activations"] == 8192 * 2048 * 2 * 16 and less.flops > plain.flops
    assert plain.memory["loss"] == 8192 * 128_256 * 2 * (2 + 4 + 8)
    assert "loss" not in estimate(LLAMA_1B, LLAMA_8B, chunked=True, **given).memory
    sharded = estimate(LLAMA_1B, LLAMA_8B, teaching="sharded", **given)
    assert plain.kept_bytes - sharded.kept_bytes == 2 * LLAMA_8B.parameters * 7 // 8
    assert estimate(LLAMA_1B, ranks=2).memory_bytes - estimate(LLAMA_1B, ranks=2, bucket_views=True).memory_bytes == (
        4 * LLAMA_1B.parameters
    )
    assert not estimate(LLAMA_8B).fits(80e9) and estimate(LLAMA_8B, ranks=64, strategy="fsdp").fits(80e9)


def test_errors_name_what_is_out_of_range() -> None:
    def error(*models: Any, **options: Any) -> str:
        with pytest.raises(UsageError) as caught:
            estimate(*models, **options)
        return str(caught.value)

    assert error(SMALL, ranks=0) == "ranks is a whole number from 1 on, and not 0"
    assert error(SMALL, top_k=0) == "top_k is a whole number from 1 on, and not 0"
    assert error(SMALL, tokens=1.5) == "tokens is a whole number from 1 on, and not 1.5"
    assert error(SMALL, ranks=8, shard_ranks=3) == "8 ranks can't be groups of 3 that share a model out"
    assert error(SMALL, optimizer="adamW").startswith("optimizer: unknown value 'adamW'. Did you mean 'adamw'?")
    assert error(SMALL, strategy="fsdp2").startswith("strategy: unknown value 'fsdp2'. Did you mean 'fsdp'?")
    with pytest.raises(UsageError) as caught:
        Model(1000, 4, 8, 100)
    assert str(caught.value) == (
        "1,608 parameters are outside of the blocks, more than the model has: 1,000. With a tied head write "
        "outside=vocabulary * width"
    )
    with pytest.raises(UsageError, match=r"^layers of a model is a whole number from 1 on, and not 0$"):
        Model(1000, 0, 8, 1)


def test_the_table_has_a_row_for_each_way(capsys: pytest.CaptureFixture[str]) -> None:
    found = list(ways(LLAMA_1B, LLAMA_8B, [1, 8], tokens=4096, checkpointing=True))
    assert [(one.ranks, one.strategy, one.teaching) for one in found[:3]] == [
        (1, "ddp", "replicated"), (1, "ddp", "stored"), (8, "ddp", "replicated")
    ]  # fmt: skip
    assert len(found) == 8
    text = table(found, 40e9)
    assert text.count("\n") == 9 and "| **no** |" in text and "| yes |" in text and "| 1 | alone | stored |" in text
    assert "| weights | 4.94 |" in parts(found[0].found)
    assert main(["--ranks", "1", "8", "--tokens", "4096", "--device-gb", "40", "--top-k", "8"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 10


def test_the_command_takes_models_and_says_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--student", "1.1e8,12,768,30522", "--teacher", "3.4e8,24,1024,30522,4096", "--ranks", "2"]) == 0
    assert "| 2 | FSDP | sharded |" in capsys.readouterr().out
    assert main(["--ranks", "8", "--shard-ranks", "3"]) == 2
    assert capsys.readouterr().err == "python -m kdhooks.scaling: 8 ranks can't be groups of 3 that share a model out\n"
    with pytest.raises(SystemExit):
        main(["--student", "tiny"])
    assert "'tiny' is not PARAMETERS,LAYERS,WIDTH,VOCABULARY[,FEED_FORWARD]" in capsys.readouterr().err


def test_no_framework_is_loaded() -> None:
    code = "import sys, kdhooks.scaling; print(sorted({'torch', 'tensorflow', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_page_has_the_tables_of_these_formulas(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "scaling.md").read_text(encoding="utf-8")
    for words in (["--ranks", "1", "8", "64", "1024", "--chunked"], ["--ranks", "8"]):
        assert main(words) == 0
        assert capsys.readouterr().out.strip() in page
