"""A wav2vec 2.0 that knows spoken digits is compressed to a third of its layers.

    python examples/wav2vec2_digits.py                                   # synthesised tones, about eight minutes
    python examples/wav2vec2_digits.py --data free-spoken-digit-dataset/recordings
    python examples/wav2vec2_digits.py --quick                           # a few steps, to see that it runs

The data is a folder of WAV files called ``digit_speaker_index.wav``, of one channel, 16 bits and 8 kHz; without one
some are synthesised. The teacher is trained from nothing. The student begins with every third of the teacher's layers:
the section `finetune` renames them as the weights go over. Then it learns from the labels, the teacher's logits and the
hidden states of the layers that it began with, in the `Trainer` of transformers, by one callback. The same student
without a teacher stands beside it, from random weights. Needs `pip install 'kdhooks[torch,transformers]'`.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from speech.networks import configuration, kept_layers, network
from speech.recordings import divided, read_folder, synthesise
from speech.training import accuracy, latency, train

from kdhooks import Distillation
from kdhooks.integrations.transformers import DistillationCallback


def main() -> None:
    """Train the teacher, the student alone, and the student with its teacher; print what they are worth."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", type=Path, help="a folder of digit_speaker_index.wav; tones are made without one")
    parser.add_argument("--quick", action="store_true", help="a few steps, to see that it runs")
    given = parser.parse_args()
    takes, held_out, teacher_layers, student_layers = (3, 1, 3, 1) if given.quick else (25, 5, 6, 2)
    teacher_steps, steps = (6, 4) if given.quick else (600, 300)

    folder = given.data
    if folder is None:
        folder = Path(tempfile.mkdtemp(prefix="kdhooks-digits-"))
        synthesise(folder, takes)
    data, test = divided(read_folder(folder), held_out)

    teacher, alone, student = network(teacher_layers, 1), network(student_layers, 2), network(student_layers, 2)
    train(teacher, teacher_steps, data)
    train(alone, steps, data)
    distiller = Distillation(configuration(teacher_layers, student_layers), teacher_model=teacher)
    distiller.pretrained_model = teacher  # where the student's weights come from
    train(student, steps, data, [DistillationCallback(distiller)])

    report = str(distiller.transfer_report).splitlines()[:2]
    print(f"\nfrom the teacher's layers {kept_layers(teacher_layers, student_layers)}:", *report, sep="\n  ")
    print(f"\n{len(data)} recordings to train on; accuracy on {len(test)} others:")
    models: dict[str, Any] = {"teacher": teacher, "student alone": alone, "student distilled": student}
    for name, model in models.items():
        size = sum(one.numel() for one in model.parameters())
        found, milliseconds = accuracy(model, test), latency(model, test[0])
        print(f"  {name:<18} {size:>9,} parameters  {found:5.1f} %  {milliseconds:6.1f} ms for one recording")


if __name__ == "__main__":
    main()
