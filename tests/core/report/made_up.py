"""Records of runs that never were, with every section, for the tests of the page."""

from __future__ import annotations

import base64
import math
import random
import struct
import zlib
from typing import Any

YAML = """model: {name: digits-resnet}

distillation:
  train:
    end_epoch: 24
    optimizer: {SGD: {learning_rate: 0.1, momentum: 0.9}}   # <b>not bold</b>
    criterion:
      KnowledgeDistillationLoss: {temperature: 4.0, loss_types: [CE, KL], loss_weights: [0.1, 0.9]}
"""


def png(pixels: list[list[int]]) -> str:
    """A grey picture as a data URI."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    raw = b"".join(b"\0" + bytes(row) for row in pixels)
    head = struct.pack(">IIBBBBB", len(pixels[0]), len(pixels), 8, 0, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def history(epochs: int, steps: int = 50) -> list[dict[str, Any]]:
    """Epochs whose losses fall and whose accuracy rises."""
    chance, found, best = random.Random(0), [], -1.0
    for epoch in range(epochs):
        ce = 2.2 * math.exp(-epoch / 5) + 0.12 + 0.02 * chance.random()
        kl = 9.0 * math.exp(-epoch / 4) + 0.05 + 0.02 * chance.random()
        accuracy = 0.94 - 0.5 * math.exp(-epoch / 3) + 0.004 * chance.random()
        found.append(
            {
                "epoch": epoch,
                "steps": steps,
                "losses": {"CE": ce, "KL": kl, "layer2-layer3-MSE": 400 * kl, "total": 0.1 * ce + 0.9 * kl},
                "metrics": {"accuracy": accuracy},
                "score": accuracy,
                "best": accuracy > best,
                "learning_rate": 0.05 * (1 + math.cos(math.pi * epoch / epochs)),
                "seconds": 2.1,
            }
        )
        best = max(best, accuracy)
    return found


def steps(epochs: int, a_epoch: int = 50) -> dict[str, Any]:
    """At most 2,000 steps with noise around the means of their epochs."""
    chance, records = random.Random(1), history(epochs, a_epoch)
    every = max(1, -(-epochs * a_epoch // 2000))
    numbers = list(range(0, epochs * a_epoch, every))
    losses = {
        name: [records[step // a_epoch]["losses"][name] * (0.7 + 0.6 * chance.random()) for step in numbers]
        for name in ("CE", "KL", "layer2-layer3-MSE", "total")
    }
    rates = [0.05 * (1 + math.cos(math.pi * step / (epochs * a_epoch))) for step in numbers]
    return {"step": numbers, "learning_rate": rates, "losses": losses}


def confusion(classes: int, rows: int = 10_000) -> dict[str, Any]:
    """Student and teacher agree on most rows, and confuse some pairs of classes."""
    chance = random.Random(2)
    counts = [[0] * classes for _ in range(classes)]
    for at in range(classes):
        counts[at][at] = round(0.93 * rows / classes)
    for _ in range(rows - sum(map(sum, counts))):
        row = int(classes * chance.random() ** 2)
        counts[row][(row + chance.choice((1, 1, 1, 2, 5))) % classes] += 1
    same = sum(counts[at][at] for at in range(classes))
    return {
        "classes": [str(at) if classes <= 10 else f"class number {at}" for at in range(classes)],
        "teacher_student": counts,
        "agreement": same / rows,
        "rows": rows,
        "accuracy": {"teacher": 0.961, "student": 0.944},
    }


def similarity(student: int, teacher: int) -> dict[str, Any]:
    """Layers that are like those of the same depth, more so after training."""

    def values(width: float, most: float) -> list[list[float]]:
        return [
            [most * math.exp(-(((row / student - column / teacher) / width) ** 2)) for column in range(teacher)]
            for row in range(student)
        ]

    return {
        "student_layers": [f"layer{at}.conv" for at in range(student)],
        "teacher_layers": [f"stages.{at // 4}.blocks.{at % 4}.conv2" for at in range(teacher)],
        "before": values(0.6, 0.7),
        "after": values(0.3, 0.95),
    }


def ledger() -> dict[str, Any]:
    """Parts of a step, as `kdhooks.ledger` has them."""
    sizes = {"student": 0.0061, "forward": 0.0021, "backward": 0.004, "data": 0.0003, "teacher": 0.0049}
    sizes |= {"losses": 0.0002, "ours": 0.00004}
    total = sum(value for name, value in sizes.items() if name not in ("forward", "backward"))
    parts = {
        name: {"median": value * 0.98, "q1": value * 0.9, "q3": value * 1.1, "mean": value, "sum": value * 1000}
        | {"share": value / total}
        | ({"of": "student"} if name in ("forward", "backward") else {})
        for name, value in sizes.items()
    }
    whole = {"median": total * 0.98, "q1": total * 0.9, "q3": total * 1.1, "mean": total, "sum": total * 1000}
    return {
        "format": "kdhooks.ledger",
        "version": 1,
        "device": "cpu",
        "seconds": 15.0,
        "steps": 1199,
        "first_step": {"seconds": 0.12, "parts": {}},
        "outside_seconds": 3.2,
        "counts": {"rows": 76736, "hits": 900, "misses": 100},
        "hit_rate": 0.9,
        "in_graph": False,
        "step": whole,
        "parts": parts,
        "floor": {"median": 0.0064, "q1": 0.006, "q3": 0.007, "ratio": 1.79},
        "elsewhere": {"prefetch": {"sum": 0.4, "times": 1200}},
        "notes": ["the backward of the distillation's losses runs in the student's and counts as its part"],
    }


def model(parameters: float, milliseconds: float, accuracy: float, kind: str = "ResNet") -> dict[str, Any]:
    return {
        "class": kind,
        "parameters": parameters,
        "file_bytes": 4 * parameters + 3000,
        "latency_ms": {"median": milliseconds, "low": 0.9 * milliseconds, "high": 1.2 * milliseconds},
        "macs": 150 * parameters,
        "metrics": {"accuracy": accuracy},
    }


def disagreements(count: int, *, texts: bool = False) -> list[dict[str, Any]]:
    """Samples with pictures, or with texts."""
    chance = random.Random(3)
    return [
        {
            "row": 17 * at,
            "teacher": str(at % 10),
            "student": str((at + 3) % 10),
            "label": str(at % 10 if at % 3 else (at + 3) % 10),
            "divergence": 3.1 / (at + 1),
            "teacher_probability": 0.98 - 0.01 * at,
            "student_probability": 0.7 - 0.01 * at,
            "image": None if texts else png([[chance.randrange(256) for _ in range(8)] for _ in range(8)]),
            "text": "a film that <i>might</i> have been better, and " * 30 if texts else None,
        }
        for at in range(count)
    ]


def record(epochs: int = 24, **changes: Any) -> dict[str, Any]:
    """A record with every section."""
    whole = {
        "format": "kdhooks run",
        "version": 1,
        "name": "digits-resnet",
        "framework": "pytorch",
        "device": "cpu",
        "began": "2026-11-29T01:20:00+00:00",
        "ended": "2026-11-29T01:21:10+00:00",
        "seconds": 70.3,
        "status": "finished",
        "configuration": YAML,
        "versions": {"python": "3.11.2", "kdhooks": "0.1.0", "torch": "2.13.0"},
        "machine": {"processor": "Xeon", "cores": 2, "memory_gib": 23.5},
        "seed": 1978,
        "history": history(epochs),
        "steps": steps(epochs),
        "models": {"student": model(33_000, 1.2, 0.944), "teacher": model(275_000, 4.9, 0.961)},
        "ledger": ledger(),
        "similarity": similarity(7, 16),
        "confusion": confusion(10),
        "disagreements": disagreements(8),
        "missing": {},
    }
    return whole | changes
