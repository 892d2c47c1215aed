"""What stands around a student or hangs on it does not come along, and files of others are not unpickled."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from kdhooks import Distillation
from kdhooks.errors import DataError, ExportError
from kdhooks.export import export, export_all
from kdhooks.torch.export_copy import clean_twin
from kdhooks.torch.export_program import load_program

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")

X = torch.linspace(-1, 1, 8).view(2, 4)


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def same(path: Path, model: nn.Module) -> bool:
    copy = clean_twin(model)
    with torch.no_grad():
        return torch.equal(load_program(path).module()(X), copy(X))


def test_a_student_under_way(tmp_path: Path) -> None:
    student, teacher = network(), network()
    hidden = {"layer_mappings": [["0"], ["2"]], "loss_types": ["MSE", "MSE"], "loss_weights": [1.0, 1.0]}
    criterion = {"IntermediateLayersKnowledgeDistillationLoss": hidden}
    distiller = Distillation(
        {"distillation": {"train": {"criterion": criterion}}}, student_model=student, teacher_model=teacher
    )
    optimizer = torch.optim.SGD(student.parameters(), 0.1)
    with distiller:
        for step in range(2):
            output = student(X)
            if step == 1:  # between a forward and its loss, where captures are held
                assert export_all(student, [tmp_path / "a.pt2", tmp_path / "a.safetensors"], inputs=X).ok
            loss = distiller.on_after_compute_loss(X, output, output.square().mean())
            assert distiller.losses["MSE[0]"] > 0
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step == 1:
                exported = load_program(tmp_path / "a.pt2").module()
    assert not torch.equal(exported(X), network().eval()(X))
    assert [name for name in exported.state_dict() if not name.startswith(("0.", "1.", "3."))] == []


class Branch(nn.Module):
    """As accelerate does it: a forward of the instance, whose closure holds the original's."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 3)
        original = self.inner.forward
        self.inner._original_forward = original
        self.inner.forward = lambda x: original(x).float()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


def test_what_stands_around_is_left_out(tmp_path: Path) -> None:
    plain = network().train()
    plain(torch.randn(16, 4))
    compiled = torch.compile(nn.Sequential(torch.compile(plain, backend="eager")), backend="eager")
    export_all(compiled, [tmp_path / "a.pt2", tmp_path / "a.safetensors"], inputs=X)
    assert same(tmp_path / "a.pt2", nn.Sequential(plain))
    assert sorted(load_program(tmp_path / "a.pt2").state_dict) == sorted(nn.Sequential(plain).state_dict())
    branch = Branch()
    twin = clean_twin(branch)
    assert "forward" not in vars(twin.inner) and "forward" in vars(branch.inner)
    with torch.no_grad():
        before = branch(X)
        branch.inner.weight.zero_()
        assert torch.equal(twin(X), before)


def test_distributed_data_parallel(tmp_path: Path) -> None:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        model = network()
        wrapped = DistributedDataParallel(model)
        export(wrapped, tmp_path / "a.pt2", inputs=X)
        assert same(tmp_path / "a.pt2", model)
        from torch.distributed.fsdp import fully_shard

        sharded = fully_shard(nn.Linear(4, 3), mesh=dist.device_mesh.init_device_mesh("cpu", (1,)))
        with pytest.raises(ExportError) as caught:
            export(sharded, tmp_path / "b.pt2", inputs=X)
        assert str(caught.value) == (
            "FSDPLinear is sharded, so this process has only its part of 'weight': gather the weights (the file that "
            "fit() writes has them), load them into a model that is not sharded, and export that"
        )
    finally:
        dist.destroy_process_group()


def test_a_student_after_a_run_has_its_best_weights(tmp_path: Path) -> None:
    train = {
        "end_epoch": 2,
        "optimizer": {"SGD": {"learning_rate": 0.1}},
        "dataloader": {"batch_size": 64, "dataset": {"digits": {"limit": 256}}},
    }
    conf = {
        "distillation": {"train": train},
        "evaluation": {"accuracy": {"metric": {"topk": 1}, "dataloader": dict(train["dataloader"])}},
        "tuning": {"workspace": {"path": str(tmp_path / "run")}},
    }  # fmt: skip
    make = lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10))  # noqa: E731
    distiller = Distillation(conf, student_model=make(), teacher_model=make())
    student = distiller.fit()
    x = torch.randn(4, 1, 8, 8)
    report = export_all(student, [tmp_path / "a.onnx", tmp_path / "a.pt2"], inputs=x)
    assert report.ok and all(one.difference <= 1e-5 for one in report.exported)
    with torch.no_grad():
        assert torch.equal(load_program(tmp_path / "a.pt2").module()(x), distiller.best_model.eval()(x))


def test_a_transformer_with_a_mapping_of_any_length(tmp_path: Path) -> None:
    import onnxruntime
    from transformers import BertConfig, BertForSequenceClassification

    tiny = BertConfig(
        vocab_size=40, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, num_labels=3
    )
    model = BertForSequenceClassification(tiny)
    mask = torch.ones(2, 10, dtype=torch.long)
    mask[1, 4:] = 0
    batch = {"input_ids": torch.randint(40, (2, 10)), "attention_mask": mask}
    names = ("student.safetensors", "student.pt2", "student.onnx")
    report = export_all(model, [tmp_path / name for name in names], inputs=batch, dynamic_length=True)
    assert report.ok and all(one.difference <= 1e-5 for one in report.exported)
    assert report.exported[2].facts["lengths"] == [10, 5]
    graph = onnxruntime.InferenceSession(str(tmp_path / names[2]), providers=["CPUExecutionProvider"])
    assert {one.name: one.shape for one in graph.get_inputs()} == {name: ["batch", "length"] for name in batch}
    other = {name: torch.cat([value, value])[:3, :7] for name, value in batch.items()}
    with torch.no_grad():
        wanted = model.eval()(**other).logits
    (logits,) = graph.run(["logits"], {name: value.numpy() for name, value in other.items()})
    assert abs(logits - wanted.numpy()).max() <= 1e-5
    found = load_program(tmp_path / names[1]).module()(**other)
    assert type(found) is dict and torch.allclose(found["logits"], wanted, atol=1e-5, rtol=0)


class Runs:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("it_ran"),)


def with_record(source: Path, target: Path, name: str, content: bytes) -> None:
    """A copy of an archive with one record put in or changed."""
    with zipfile.ZipFile(source) as archive:
        records = {one: archive.read(one) for one in archive.namelist()}
    match = next((one for one in records if one.endswith(name)), f"{next(iter(records)).split('/')[0]}/{name}")
    with zipfile.ZipFile(target, "w") as archive:
        for one, value in {**records, match: content}.items():
            archive.writestr(one, value)


def test_programs_of_others_are_not_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    good, bad = Path("good.pt2"), Path("bad.pt2")
    export(nn.Linear(4, 3), good, inputs=X)
    buffer = io.BytesIO()
    torch.save((Runs(),), buffer)
    with_record(good, bad, "data/sample_inputs/model.pt", buffer.getvalue())
    with pytest.raises(DataError, match=r"sample_inputs/model\.pt, which would be run when loaded: it is refused"):
        load_program(bad)
    with zipfile.ZipFile(good) as archive:
        config = next(archive.read(one) for one in archive.namelist() if one.endswith("weights_config.json"))
    with_record(
        good,
        bad,
        "data/weights/model_weights_config.json",
        config.replace(b'"use_pickle": false', b'"use_pickle": true'),
    )
    with pytest.raises(DataError) as caught:
        load_program(bad)
    assert str(caught.value) == (
        "bad.pt2 holds the pickled object weight, which would be run when loaded: it is refused"
    )
    assert not Path("it_ran").exists()
    bad.write_text("nothing")
    with pytest.raises(DataError, match=r"bad\.pt2 is no program of torch\.export, or damaged"):
        load_program(bad)
    with pytest.raises(DataError, match=r"none\.pt2 can't be read: No such file or directory"):
        load_program("none.pt2")
