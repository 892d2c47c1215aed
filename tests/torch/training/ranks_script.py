"""What `test_training_ranks` runs: a training of two processes, whose results are written as JSON.

    python ranks_script.py FOLDER MODE

MODE is ``processes`` (this script is started once, and Lightning starts it again) or ``nodes`` (it is started twice).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from tests.torch.training.setups import BATCH, Accuracy, classifier, loader, training


def main(folder: Path, mode: str) -> None:
    torch.set_num_threads(1)
    spread: dict[str, Any] = {"num_nodes": 2} if mode == "nodes" else {"accelerator": "ddp_cpu", "num_processes": 2}
    found: dict[str, Any] = {}

    def run(name: str, **changes: Any) -> Any:
        one = training(folder, **{"train_data_loader": loader(batch_size=BATCH // 2), **spread, **changes})
        one.start_kd_training()
        found[name] = {
            "weights": [value.tolist() for value in one.get_student_model().state_dict().values()],
            "metrics": [record["metrics"] for record in one.history],
            "folder": str(one.folder),
        }
        return one

    run("plain", max_epoch=4)
    found["ranks"] = [dist.get_rank(), dist.get_world_size()]
    if mode == "processes":
        drawing: dict[str, Any] = {
            "train_data_loader": loader(batch_size=BATCH // 2, shuffle=True),
            "val_data_loaders": {"v": loader(7)},
            "inference_pipeline": Accuracy(),
        }
        run("whole", max_epoch=3, student_model=classifier(), **drawing)
        half = run("half", max_epoch=1, student_model=classifier(), **drawing)
        checkpoint = half.folder / "last.ckpt"
        run("rest", max_epoch=3, student_model=classifier(9), seed=9, resume_from_checkpoint=checkpoint, **drawing)
        layer = {"layer_mappings": [["body.0", "body.0"]], "loss_types": ["MSE"], "feature_matchers": ["linear"]}
        conf = {"distillation": {"train": {"criterion": {"IntermediateLayersKnowledgeDistillationLoss": layer}}}}
        teacher = classifier(2)
        matched = run("matched", student_model=classifier(), teacher_model=teacher, distillation=conf, max_epoch=2)
        found["matcher"] = [one.tolist() for one in matched.distiller.parameters()]
    (folder / f"{mode}-{dist.get_rank()}.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
