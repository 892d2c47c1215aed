"""What one of several processes does under Lightning, as the launcher of a cluster would have started it."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch import Tensor

from kdhooks import Distillation
from kdhooks.errors import UsageError
from kdhooks.integrations.lightning import DistillationCallback
from tests.torch.hidden_models import Net, weights
from tests.torch.integrations.lightning_parts import Hidden, Module, layers, loader, logits, trainer
from tests.torch.small_models import kd_conf, made


def start(rank: int, port: int, size: int = 2) -> None:
    """The environment of a launched process."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # of Lightning and gloo; the parent's tests are strict about ours
    named = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "GROUP_RANK": 0}
    named |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "kd", "OMP_NUM_THREADS": 1}
    os.environ.update({name: str(value) for name, value in named.items()})


def fit(
    module: Any,
    distiller: Distillation,
    folder: Path | None = None,
    *,
    epochs: int = 2,
    ckpt: Any = None,
    **options: Any,
) -> dict[str, Any]:
    """A fit in this process, and what can be compared afterwards: all plain, for a file."""
    ours: list[Tensor] = []
    distiller.register_hook("on_train_end", lambda ended: ours.extend(weights(ended)))
    saving = [] if folder is None else [ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1)]
    given: dict[str, Any] = {
        "strategy": DDPStrategy(process_group_backend="gloo"),
        "devices": 2,
        "log_every_n_steps": 1,
    }
    run = trainer(
        DistillationCallback(distiller), *saving, epochs=epochs, enable_checkpointing=bool(saving), **(given | options)
    )
    torch.manual_seed(int(os.environ.get("RANK", 0)) + (5 if ckpt is None else 50))  # dropout differs by rank
    run.fit(module, loader(batch_size=4, shuffle=True), ckpt_path=ckpt)
    state = {
        name: getattr(value, "full_tensor", lambda value=value: value)() for name, value in module.state_dict().items()
    }
    logged = {name: float(value) for name, value in run.callback_metrics.items() if name.startswith("kd/")}
    return {"state": state, "ours": ours, "losses": [one["losses"] for one in distiller.history], "logged": logged}


def data_parallel(folder: Path, rank: int, port: int) -> None:
    """All that two replicas are asked, in one start of processes."""
    start(rank, port)
    found = {
        "alone": fit(Module(), logits([1, 0])),
        "matchers": fit(Hidden(), layers(), folder / "matchers"),
        "resumed": {},
        "dropout": fit(Module(), logits(), folder / "dropout"),
        "unused": fit(Hidden(), layers(), strategy="ddp_find_unused_parameters_true", epochs=1),
        "clipped": fit(Hidden(), layers(), gradient_clip_val=0.05, accumulate_grad_batches=2),
    }
    found["resumed"] = fit(Hidden(), layers(), ckpt=folder / "matchers" / "epoch=0.ckpt")
    found["dropped again"] = fit(Module(), logits(), ckpt=folder / "dropout" / "epoch=0.ckpt")
    plain = Module()
    run = trainer(strategy=DDPStrategy(process_group_backend="gloo"), devices=2, epochs=2)
    torch.manual_seed(rank + 5)
    run.fit(plain, loader(batch_size=4, shuffle=True))
    found["without"] = {"state": plain.state_dict()}
    frozen = {"finetune": {"freeze": ["first"]}} | kd_conf()
    for strategy in ("ddp", "ddp_find_unused_parameters_true"):
        distiller = Distillation(frozen, teacher_model=made(2, lambda: Net(12)))
        try:
            found[strategy] = fit(Hidden(), distiller, strategy=strategy, epochs=1)
        except UsageError as error:
            found[strategy] = {"error": str(error)}
    torch.save(found, folder / f"rank{rank}.pt")


class Sharded(Hidden):
    """With its network sharded over the processes, as Lightning's documentation does it."""

    groups = False

    def configure_optimizers(self) -> Any:
        if not self.groups:
            return super().configure_optimizers()
        parts = [{"params": list(part.parameters())} for part in (self.model.first, self.model.block, self.model.head)]
        return torch.optim.SGD(parts, lr=0.1, momentum=0.9)

    def configure_model(self) -> None:
        from torch.distributed.fsdp import fully_shard

        mesh = self.device_mesh["data_parallel"] if self.device_mesh is not None else None
        for one in (self.model.first, self.model.block, self.model.head, self.model):
            fully_shard(one, mesh=mesh)


class Grouped(Sharded):
    groups = True


def sharded(folder: Path, rank: int, port: int) -> None:
    """The same with ``fully_shard``."""
    start(rank, port)

    def strategy(whole: bool = False) -> ModelParallelStrategy:
        return ModelParallelStrategy(
            data_parallel_size=2,
            tensor_parallel_size=1,
            process_group_backend="gloo",
            save_distributed_checkpoint=not whole,
        )

    found = {
        "plain": fit(Hidden(), layers()),
        "sharded": fit(Sharded(), layers(), folder / "parts", strategy=strategy()),
        "clipped": fit(Sharded(), layers(), strategy=strategy(), gradient_clip_val=0.05),
        "clipped plain": fit(Hidden(), layers(), gradient_clip_val=0.05),
        "resumed": fit(Sharded(), layers(), ckpt=folder / "parts" / "epoch=0.ckpt", strategy=strategy()),
        "grouped": fit(Grouped(), layers(), folder / "groups", strategy=strategy()),
        "regrouped": fit(Grouped(), layers(), ckpt=folder / "groups" / "epoch=0.ckpt", strategy=strategy()),
        "whole": fit(Sharded(), layers(), folder / "whole", strategy=strategy(True)),
        "resumed whole": fit(Sharded(), layers(), ckpt=folder / "whole" / "epoch=0.ckpt", strategy=strategy(True)),
    }
    torch.save(found, folder / f"rank{rank}.pt")
