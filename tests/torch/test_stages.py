"""What stages do in PyTorch beyond the contract: how far models run, what optimizers hold, where errors stand."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdhooks import ConfigError, Distillation
from kdhooks.config.search_settings import FlashSettings, StageSettings
from kdhooks.search.distilling.stages import FlashDistillation
from kdhooks.torch.backend import BACKEND
from tests.torch.small_models import made

LAYERS = 4


class Block(nn.Module):
    """A layer with a normalisation and dropout."""

    def __init__(self, width: int, *, norm: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)
        self.norm: nn.Module = nn.BatchNorm1d(width) if norm else nn.LayerNorm(width)
        self.drop = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.drop(self.norm(self.linear(x)).relu())
        return output


class Deep(nn.Module):
    """Four blocks and a head."""

    def __init__(self, width: int = 8, *, norm: bool = True) -> None:
        super().__init__()
        self.stem = nn.Linear(6, width)
        self.blocks = nn.ModuleList(Block(width, norm=norm) for _ in range(LAYERS))
        self.head = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        output: Tensor = self.head(x)
        return output


def stages(*numbers: int, steps: int = 4, **options: Any) -> FlashSettings:
    names = [f"blocks.{number}" for number in numbers]
    return FlashSettings(tuple(StageSettings(name, {"layer_mappings": [[name]], **options}, steps) for name in names))


def batches() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(3)
    return [(torch.randn(8, 6, generator=generator), torch.arange(8) % 4) for _ in range(3)]


def conf(folder: Path, **more: Any) -> dict[str, Any]:
    train = {"optimizer": {"AdamW": {"learning_rate": 0.01}}}
    return {"distillation": {"train": train}, "tuning": {"workspace": {"path": str(folder / "run")}}} | more


def flash(folder: Path, settings: FlashSettings, *, norm: bool = True, **options: Any) -> FlashDistillation:
    student, teacher = made(1, lambda: Deep(norm=norm)), made(2, lambda: Deep(12, norm=norm))
    return FlashDistillation(conf(folder), student, teacher, train_dataloader=batches(), settings=settings, **options)


def counted(model: nn.Module) -> dict[str, int]:
    """How often each block and the head are called."""
    counts = dict.fromkeys([f"blocks.{number}" for number in range(LAYERS)] + ["head"], 0)

    def count(name: str) -> Any:
        def hook(*_: Any) -> None:
            counts[name] += 1

        return hook

    for name in counts:
        model.get_submodule(name).register_forward_pre_hook(count(name))
    return counts


@pytest.mark.parametrize("role", ["student_model", "teacher_model"])
def test_both_models_run_no_further_than_the_stage_needs(tmp_path: Path, role: str) -> None:
    part = flash(tmp_path, stages(0, 2))
    counts = counted(getattr(part, role))
    part()
    # The first forward of each stage runs whole, to learn the order in which layers are called.
    assert counts == {"blocks.0": 8, "blocks.1": 5, "blocks.2": 5, "blocks.3": 2, "head": 2}


def test_an_ended_forward_trains_as_a_whole_one(tmp_path: Path) -> None:
    def trained(*, ends: bool) -> dict[str, Tensor]:
        part = flash(tmp_path, stages(0, 1))
        for block in (*part.student_model.blocks, *part.teacher_model.blocks):
            block.drop.p = 0.0
        if not ends:
            part.student_model.hf_device_map = {}  # its layers might not be unwound
        part()
        weights: dict[str, Tensor] = part.student_model.state_dict()
        return weights

    one, other = trained(ends=True), trained(ends=False)
    assert all(torch.equal(one[name], other[name]) for name in one)


class Twice(Deep):
    """Calls its second block once more at the end."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in (*self.blocks, self.blocks[1]):
            x = block(x)
        output: Tensor = self.head(x)
        return output


class Checkpointed(Deep):
    """Computes its blocks once more in the backward."""

    def forward(self, x: Tensor) -> Tensor:
        from torch.utils.checkpoint import checkpoint

        x = self.stem(x)
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False)
        output: Tensor = self.head(x)
        return output


def test_a_forward_that_may_not_end_early_runs_whole(tmp_path: Path) -> None:
    whole = FlashSettings((StageSettings("", {"layer_mappings": [["blocks.1"]]}, 4),))
    cases: list[tuple[type[Deep], FlashSettings]] = [
        (Twice, stages(1)),
        (Checkpointed, stages(1)),
        (Deep, whole),  # statistics behind the layer move
        (Deep, stages(1, add_origin_loss=True)),
        (Deep, stages(1, balance="gradient", add_origin_loss=True)),
    ]
    for kind, settings in cases:
        part = flash(tmp_path, settings)
        part.student_model = made(1, kind)
        counts = counted(part.student_model)
        part()
        assert counts["head"] == 4, kind


def test_an_evaluation_within_a_stage_runs_whole(tmp_path: Path) -> None:
    part = flash(tmp_path, stages(0))
    shapes: list[Any] = []

    def evaluate(student: nn.Module) -> float:
        shapes.append(list(student(batches()[0][0]).shape))
        return 0.0

    part.eval_func = evaluate
    part()
    assert shapes == [[8, 4], [8, 4]]


def test_the_optimizer_holds_what_trains_and_nothing_else(tmp_path: Path) -> None:
    part = flash(tmp_path, stages(1))
    held: list[int] = []
    begin = Distillation.on_train_begin

    def look(self: Distillation, dataloader: Any = None, *, optimizer: Any = None) -> None:
        held.append(sum(one.numel() for group in optimizer.param_groups for one in group["params"]))
        begin(self, dataloader, optimizer=optimizer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Distillation, "on_train_begin", look)
        part()
    assert held == [8 * 8 + 8 + 16] == [part.history[0]["trained"]]


def test_what_the_user_froze_stays_frozen_and_shared_weights_train(tmp_path: Path) -> None:
    part = flash(tmp_path, stages(1))
    student = part.student_model
    student.blocks[1].linear.bias.requires_grad_(False)
    student.blocks[3].linear.weight = student.blocks[1].linear.weight  # trained, since a block of the stage has it
    before = copy.deepcopy(student.state_dict())
    part()
    changed = {name for name, value in student.state_dict().items() if not torch.equal(value, before[name])}
    assert {name for name in changed if "norm" not in name} == {"blocks.1.linear.weight", "blocks.3.linear.weight"}
    assert [name for name, one in student.named_parameters() if not one.requires_grad] == ["blocks.1.linear.bias"]
    assert all(one.grad is None for one in student.parameters())


def test_modes_are_put_back(tmp_path: Path) -> None:
    part = flash(tmp_path, stages(0))
    part.student_model.eval()
    part.student_model.blocks[2].train()
    before = [module.training for module in part.student_model.modules()]
    part()
    assert [module.training for module in part.student_model.modules()] == before


def test_a_student_inside_of_a_wrapper(tmp_path: Path) -> None:
    part = flash(tmp_path, stages(1), norm=False)
    plain = part.student_model
    part.student_model = torch.compile(plain, backend="eager")
    before = copy.deepcopy(plain.state_dict())
    assert part() is part.student_model
    changed = {name for name, value in plain.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and all(name.startswith("blocks.1.") for name in changed)


def test_blocks_of_bfloat16_go_over() -> None:
    one, other = (made(seed, Deep).to(torch.bfloat16) for seed in (1, 2))
    state = BACKEND.block(one, "blocks.1")
    BACKEND.block(other, "blocks.1").load(state.arrays())
    for name, value in one.blocks[1].state_dict().items():
        assert torch.equal(value, other.blocks[1].state_dict()[name])
    assert state.structure == BACKEND.block(other, "blocks.1").structure
    assert state.structure != BACKEND.block(made(1, Deep), "blocks.1").structure


def test_options_of_modules_are_part_of_a_blocks_structure() -> None:
    one, other = made(1, Deep), made(1, Deep)
    other.blocks[1].heads = 2
    assert BACKEND.block(one, "blocks.1").structure != BACKEND.block(other, "blocks.1").structure


# ---- in a file ---------------------------------------------------------------------------------------

YAML = """\
auto_distillation:
  search: {search_space: {width: [8]}}
  flash_distillation:
    block_names: [blocks.0, blocks.1]
    layer_mappings_for_knowledge_transfer:
      - [[blocks.0, blocks.0]]
      - [[blocks.1, blocks.2], [blocks.1.norm, blocks.1.norm]]
    loss_types: [[MSE], [MSE, L1]]
    train_steps: [2, 2]
  train: {optimizer: {SGD: {learning_rate: 0.1}}}
"""


def failing(folder: Path, old: str, new: str) -> str:
    assert old in YAML
    path = folder / "auto.yaml"
    path.write_text(YAML.replace(old, new, 1))
    part = FlashDistillation(path, made(1, Deep), made(2, lambda: Deep(12)), train_dataloader=batches())
    with pytest.raises(ConfigError) as caught:
        part()
    return str(caught.value).replace(str(path), "auto.yaml")


def test_errors_of_stages_point_at_the_users_line(tmp_path: Path) -> None:
    section = "auto_distillation.flash_distillation"
    assert failing(tmp_path, "block_names: [blocks.0, blocks.1]", "block_names: [blocks.0, bloks.1]") == (
        f"""\
auto.yaml:4:29: {section}.block_names[1]: student Deep has no layer 'bloks.1'
  4 |     block_names: [blocks.0, bloks.1]
    |                             ^^^^^^^
  Did you mean 'blocks.1'? All layers: kdhooks layers MODEL"""
    )
    assert failing(tmp_path, "[blocks.1, blocks.2]", "[blocks.1, bloks.2]") == (
        f"""\
auto.yaml:7:21: {section}.layer_mappings_for_knowledge_transfer[1][0][1]: teacher Deep has no layer 'bloks.2'
  7 |       - [[blocks.1, bloks.2], [blocks.1.norm, blocks.1.norm]]
    |                     ^^^^^^^
  Did you mean 'blocks.2'? All layers: kdhooks layers MODEL"""
    )
    assert failing(tmp_path, "SGD: {learning_rate: 0.1}", "SGD: {learning_rat: 0.1}") == (
        """\
auto.yaml:10:29: auto_distillation.train.optimizer.SGD.learning_rat: SGD has no option 'learning_rat'
 10 |   train: {optimizer: {SGD: {learning_rat: 0.1}}}
    |                             ^^^^^^^^^^^^
  Did you mean 'learning_rate'?"""
    )
