"""What is captured of a forward, when, and that nothing stays."""

from __future__ import annotations

import copy
import gc
import pickle
import tracemalloc

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.optim.optimizer import _global_optimizer_pre_hooks
from torch.utils.checkpoint import checkpoint

from kdhooks.errors import ModelError
from kdhooks.torch.taps import Gone, Taps
from kdhooks.torch.teacher import Teacher
from kdhooks.torch.teacher_taps import TeacherTaps
from kdhooks.torch.wrappers import LayerError, find_layer, named_layers
from tests.torch.hidden_models import Net, criterion, distillation, models, total_of, train
from tests.torch.small_models import batches, made


def attached(model: nn.Module, *layers: str, inputs: tuple[str, ...] = ()) -> Taps:
    taps = Taps(model)
    taps.attach([*((layer, False) for layer in layers), *((layer, True) for layer in inputs)])
    return taps


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_each_layer_once_a_step_and_the_inputs_of_layers() -> None:
    net, x = made(1, Net), batches()[0][0]
    taps = attached(net, "first", "", "block", "block.layer", inputs=("block", "", "head"))
    output = net(x)
    first = net.first(x)
    assert torch.equal(taps.slots["", False].read()[0], output)
    assert torch.equal(taps.slots["block", True].read()[0], first.tanh())
    assert torch.equal(taps.slots["", True].read()[0], x)
    assert [len(taps.slots[key, False].read()) for key in ("first", "block", "block.layer")] == [1, 1, 2]
    taps.attach([("first", False)])
    assert len(net.first._forward_hooks) == 1
    taps.detach()
    taps.detach()
    assert hooks(net) == 0


def test_evaluation_adds_no_memory_and_does_not_disturb_a_step() -> None:
    net, x = made(1, Net), batches()[0][0]
    taps = attached(net, "first", "block.layer")
    net(x)
    kept = taps.slots["first", False].calls[0]
    with torch.no_grad():
        net(x)
    with torch.inference_mode():
        net(x)
    assert taps.slots["first", False].calls[0] is kept
    for grad in (False, True):
        gc.collect()
        tracemalloc.start()
        with torch.set_grad_enabled(grad):
            for _ in range(20):
                net(x)
            before = tracemalloc.get_traced_memory()[0], tensors()
            for _ in range(1000):
                net(x)
        gc.collect()
        after = tracemalloc.get_traced_memory()[0], tensors()
        tracemalloc.stop()
        assert after[1] <= before[1] and after[0] - before[0] < 20_000
    for _ in range(50):  # layers without their root
        net.first(x)
    assert len(taps.slots["first", False].calls) == 1
    taps.detach()


def tensors() -> int:
    return sum(issubclass(type(one), Tensor) for one in gc.get_objects())


def test_a_step_leaves_no_tensor_behind() -> None:
    student, teacher = models()
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    with distillation(student, teacher) as distiller:
        train(distiller, student, optimizer, steps=2)
        taps = distiller.criterion._pairs
        assert all(slot.calls == [] for slot in (*taps.bound.student.slots.values(), *taps.taps.slots.values()))
        assert distiller.criterion.student_features == distiller.criterion.teacher_features == {}


@pytest.mark.parametrize("reentrant", [True, False])
def test_under_checkpointing_the_first_forward_counts(reentrant: bool) -> None:
    class Checkpointed(Net):
        def forward(self, x: Tensor) -> Tensor:
            hidden = checkpoint(self.block, self.first(x).tanh(), use_reentrant=reentrant)
            output: Tensor = self.head(hidden[0])
            return output

    net, x = made(1, Checkpointed), batches()[0][0]
    taps = attached(net, "first", "block.layer")
    net(x).sum().backward()
    assert len(taps.slots["first", False].calls) == 1
    assert len(taps.slots["block.layer", False].calls) == (0 if reentrant else 2)
    taps.detach()
    if reentrant:
        distiller = distillation(net, made(2, Net), layer_mappings=[["block.layer"]], loss_weights=[1])
        with distiller, pytest.raises(ModelError, match="runs inside of a reentrant checkpoint"):
            total_of(distiller, net, *batches()[0])


def test_gradients_of_checkpointed_features_are_those_of_plain_ones() -> None:
    found = []
    for wrapped in (False, True):
        student, teacher = models()
        if wrapped:
            student.block = checkpoint_wrapper(student.block)
        with distillation(student, teacher, layer_mappings=[["block.layer"]], loss_weights=[1.0]) as distiller:
            total_of(distiller, student, *batches()[0]).backward()
            found.append([parameter.grad for parameter in student.parameters()])
    assert all(torch.allclose(one, other, atol=1e-7) for one, other in zip(*found, strict=True))


def test_wrappers_are_seen_through() -> None:
    net = made(1, Net)
    names = list(named_layers(net))
    assert names == [name for name, _ in net.named_modules()]
    wrapped = nn.DataParallel(torch.compile(net, backend="eager"))
    net.block = checkpoint_wrapper(torch.compile(net.block, backend="eager"))
    assert list(named_layers(wrapped)) == names
    for spelling in ("block.layer", "module.block.layer", "block._orig_mod.layer", "_orig_mod.block.layer"):
        assert find_layer(wrapped, spelling, "student")[0] == "block.layer"
    assert find_layer(wrapped, "block", "student")[1] is net.block
    assert find_layer(wrapped, "", "student")[1] is net


def test_data_parallel_and_the_model_inside_of_it_give_the_same() -> None:
    losses = []
    for wrap in (lambda model: model, nn.DataParallel):
        student, teacher = models()
        with distillation(wrap(student), wrap(teacher)) as distiller:
            total_of(distiller, wrap(student), *batches()[0])
            losses.append(distiller.losses)
    assert losses[0] == losses[1]


def test_replicas_on_several_devices_are_refused() -> None:
    student, teacher = models()
    with distillation(student, teacher):
        replica = student._replicate_for_data_parallel()  # what nn.DataParallel makes for each device
        with pytest.raises(ModelError) as caught:
            replica(batches()[0][0])
    assert str(caught.value) == (
        "student Net: nn.DataParallel runs a copy of it on each device, so no layer has the features of a whole batch. "
        "Use DistributedDataParallel, or one device"
    )


def test_copies_and_pickles_capture_nothing_and_shed_what_is_left() -> None:
    student, teacher = models()
    x, y = batches()[0]
    with distillation(student, teacher) as distiller:
        output = student(x)
        for twin in (copy.deepcopy(student), pickle.loads(pickle.dumps(student))):
            slots = distiller.criterion._pairs.bound.student.slots
            before = {key: slot.calls[0] for key, slot in slots.items()}
            assert any(isinstance(hook, Gone) for module in twin.modules() for hook in module._forward_hooks.values())
            twin(x * 2)
            assert all(slot.calls[0] is before[key] for key, slot in slots.items())
            assert hooks(twin) == 0
        distiller.on_after_compute_loss(x, output, F.cross_entropy(output, y))
        distiller.eval_func = lambda model: 1.0
        distiller.on_epoch_end()
        assert hooks(distiller.best_model) == 0
    assert hooks(student) == hooks(teacher) == 0


def test_what_is_overwritten_in_place_is_what_the_layer_returned() -> None:
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.head = nn.Linear(6, 8), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            hidden = self.first(x)
            hidden += 100
            output: Tensor = self.head(hidden.relu_())
            return output

    net, teacher, x = made(1, InPlace), made(2, InPlace), batches()[0][0]
    with distillation(net, teacher, layer_mappings=[["first"]], loss_weights=[1.0]) as distiller:
        for _ in range(3):
            total_of(distiller, net, *batches()[0])
            mine, theirs = (F.linear(x, one.first.weight, one.first.bias).detach() for one in (net, teacher))
            expected = F.mse_loss(mine, theirs)
            assert distiller.losses["MSE[first]"] == pytest.approx(float(expected), rel=1e-6)
        assert distiller.criterion._pairs.bound.student.slots["first", False].copies


def test_two_criteria_and_two_distillations_at_once() -> None:
    student, teacher = models()
    one, other = distillation(student, teacher), distillation(student, teacher)
    one.criterion = [criterion(), criterion(add_origin_loss=False)]
    with one, other:
        x, y = batches()[0]
        output = student(x)
        loss = F.cross_entropy(output, y)
        one.on_after_compute_loss(x, output, loss)
        other.on_after_compute_loss(x, output, loss)
        assert one.losses["MSE[first]"] == one.losses["MSE[first].2"] == other.losses["MSE[first]"]
    assert hooks(student) == hooks(teacher) == 0


def test_nothing_is_left_when_the_loop_raises() -> None:
    student, teacher = models()
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    others = dict(_global_optimizer_pre_hooks)  # of runs that another test has not ended
    with pytest.raises(ZeroDivisionError), distillation(student, teacher) as distiller:
        total_of(distiller, student, *batches()[0]).backward()
        assert len(optimizer.param_groups[0]["params"]) == 8
        raise ZeroDivisionError
    assert hooks(student) == hooks(teacher) == 0
    assert len(optimizer.param_groups[0]["params"]) == 6
    assert dict(_global_optimizer_pre_hooks) == others
    pickle.dumps(student)


# ---- names -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "block.lyer",
            "teacher Net has no layer 'block.lyer'. Did you mean 'block.layer'? All layers: kdhooks layers MODEL",
        ),
        ("tail", "teacher Net has no layer 'tail'. All layers: kdhooks layers MODEL"),
        ("layer", "teacher Net has no layer 'layer'. Did you mean 'block.layer'? All layers: kdhooks layers MODEL"),
    ],
)
def test_unknown_layers(name: str, message: str) -> None:
    with pytest.raises(LayerError) as caught:
        TeacherTaps(made(1, Net)).find(name)
    assert str(caught.value) == message


def test_ambiguous_layers() -> None:
    model = nn.ModuleDict({"a": made(1, Net), "b": made(1, Net)})
    with pytest.raises(LayerError) as caught:
        Taps(model).find("block.layer")
    assert str(caught.value) == (
        "student ModuleDict has 2 layers that end in 'block.layer': 'a.block.layer', 'b.block.layer'. "
        "Write the whole name"
    )


def test_a_teacher_alone_forgets_its_taps_at_the_end() -> None:
    net = made(1, Net)
    teacher = Teacher(net, nn.Linear(1, 1))
    teacher.on_train_begin()
    teacher.tap().attach([("first", False)])
    teacher(batches()[0][0])
    assert len(teacher.taps.slots["first", False].calls) == 1
    teacher.on_train_end()
    assert teacher.taps is None and hooks(net) == 0
