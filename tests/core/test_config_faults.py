"""Thousands of damaged files: each is a configuration or a `ConfigError` with a line, nothing else."""

from __future__ import annotations

import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kdhooks.config import DistillationConf
from kdhooks.errors import ConfigError

TEXTS = [
    """\
model: {name: mobilenet_distillation, framework: pytorch}   # a comment
distillation:
  train:
    start_epoch: 0
    end_epoch: 10
    iteration: 100
    optimizer: {SGD: {learning_rate: 0.1, momentum: 0.9, nesterov: true, weight_decay: 5e-4}}
    scheduler: {CosineAnnealing: {warmup_epochs: 1}}
    criterion:
      KnowledgeDistillationLoss:
        temperature: 4.0
        loss_types: [CE, KL]
        loss_weights: [0.1, {linear: {from: 1, to: 0, steps: 1000}}]
    dataloader: {batch_size: 128, shuffle: true, dataset: {FashionMNIST: {train: true}}}
  teacher: {precision: bf16}
evaluation:
  accuracy: {metric: {topk: 1}, dataloader: {batch_size: 256, dataset: {FashionMNIST: {train: false}}}}
tuning: {random_seed: 1978}
""",
    """\
device: cuda:0
distillation:
  train:
    epoch: 3
    criterion:
    - KnowledgeDistillationLoss:
        temperature:
          piecewise:
            values:
              0: 4.0
              1000: 1
        loss_types:
        - CE
        - reverse_KL
        teacher_weights: {large: 2, small: 1}
    dataloader: &data
      batch_size: 32
      last_batch: rollover
      transform:
        RandomCrop: {size: [28, 28]}
        ToTensor:
        Normalize:
          mean: [0.485, 0.456, 0.406]
      dataset:
        ImageFolder:
          root: "/path/to images/ä"
    postprocess: {transform: {LabelShift: 1}}
evaluation:
  accuracy:
    multi_metrics: {topk: 1, F1: , weight: 0.5 0.5, higher_is_better: [true, true]}
    configs: {cores_per_instance: 4}
    dataloader: *data
tuning:
  workspace:
    path: >-
      runs/folded
    resume: off
""",
    """\
auto_distillation:
  search:
    search_space:
      block: [conv, attention]
      layers: {low: 2, high: 12, step: 2}
      kernel: {choices: [3, 5], when: {block: conv, layers: [2, 4]}}
      rate: {low: 1.0e-5, high: 1.0e-2, log: true}
    search_algorithm: TPE
    metrics: [accuracy, latency]
    higher_is_better: [true, false]
    constraints: [latency <= 5 ms, parameters <= 10e6, layers % 4 == 0]
    pruner: {median: {warm_up: 2}}
    storage: sqlite:///study.db
    timeout: 2 h
  flash_distillation:
    knowledge_transfer:
      block_names: [a, b]
      layer_mappings_for_knowledge_transfer: [[[a, '1', t, 0], [a1]], [{student: 'b.{i}', teacher: 't.{i}', i: 0..1}]]
      loss_types: [[KL, MSE], [hint]]
      loss_weights: [[0.5, 0.5], 1]
      train_steps: 500
    regular_distillation: {layer_mappings: [[head, head]], loss_types: ['KL'], add_origin_loss: [true]}
  measure: {batch_size: 8}
""",
]

SCALARS = [
    *["", "~", "null", "yes", "off", "010", "1:30", "2024-01-31", ".nan", "-.inf", "1e999", "9" * 5000, "-1", "0.5"],
    *["''", '"\\ud800"', '"\\UFFFFFFFF"', "'", '"', "[", "]", "{", "}", "*data", "*no", "&data", "&x", "<<", "? a"],
    *["!!python/name:os.system", "!!python/object/apply:os.system [exit 1]", "!mine", "!", "!!str", "!!binary x"],
    *["|", ">", "%YAML 9.9", "---", "...", "@", "`", "\t", "# ", ": ", "- ", "[1, [2, {a: b}]]", "{SGD: {}}", "KL"],
]
KINDS = ["flip", "insert", "delete", "duplicate", "drop", "tag", "indent", "scalar", "cut", "swap"]
MUTATION = st.tuples(st.sampled_from(KINDS), st.integers(0, 2**16), st.integers(0, 2**16))


def mutated(content: bytes, kind: str, where: int, what: int) -> bytes:
    """The content with one piece of damage."""
    at, lines = where % (len(content) + 1), content.split(b"\n")
    row = where % len(lines)
    word = SCALARS[what % len(SCALARS)].encode()
    if kind == "flip":
        return (
            content[:at] + bytes([content[at] ^ (1 << what % 8)]) + content[at + 1 :] if at < len(content) else content
        )
    if kind == "insert":
        return content[:at] + bytes([what % 256]) + content[at:]
    if kind == "delete":
        return content[:at] + content[at + 1 + what % 9 :]
    if kind == "cut":
        return content[:at]
    if kind == "duplicate":
        lines.insert(what % len(lines), lines[row])
    elif kind == "drop":
        del lines[row]
    elif kind == "swap":
        other = what % len(lines)
        lines[row], lines[other] = lines[other], lines[row]
    elif kind == "indent":
        lines[row] = b" " * (what % 9) + lines[row].lstrip() if what % 2 else lines[row].lstrip()
    elif kind == "tag":
        lines[row] = re.sub(rb"(: ?|- )", lambda found: found[0] + word + b" ", lines[row], count=1 + what % 2)
    else:
        values = re.findall(rb"[^\s:,{}\[\]]+", lines[row]) or [b""]
        lines[row] = lines[row].replace(values[what % len(values)], word, 1)
    return b"\n".join(lines)


@pytest.mark.parametrize(("files", "examples"), [(2000, 2600), pytest.param(40_000, 65_000, marks=pytest.mark.soak)])
def test_damaged_files_are_refused_with_a_line_or_read(files, examples, tmp_path):
    file = tmp_path / "kd.yaml"
    seen: dict[bytes, bool] = {}

    @settings(max_examples=examples, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(TEXTS), st.lists(MUTATION, min_size=1, max_size=3))
    def check(text, mutations):
        content = text.encode()
        for mutation in mutations:
            content = mutated(content, *mutation)
        file.write_bytes(content)
        try:
            seen[content] = bool(DistillationConf(file).settings)
        except ConfigError as error:
            seen[content] = False
            assert error.problems
            for problem in error.problems:
                assert problem.file == str(file) and problem.line >= 1 and problem.column >= 1, str(error)
                assert problem.message and str(problem).startswith(f"{file}:{problem.line}:{problem.column}: ")
                str(problem).encode()

    check()
    assert len(seen) >= files
    assert files // 20 <= sum(seen.values()) <= len(seen) - files // 2  # the damage is neither harmless nor total
