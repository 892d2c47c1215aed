"""The rows of docs/results_domains.md, and what was tried before they were fixed."""

from __future__ import annotations

from typing import Any

from benchmarks import domain_digits, domain_scanners, domain_transfer

SEEDS, SEARCH_SEED = (0, 1, 2, 3, 4), 100


def _digits(criterion: Any = None, **changes: Any) -> domain_digits.Recipe:
    return domain_digits.Recipe(criterion or {}).but(**changes)


def _cac(**options: Any) -> domain_scanners.Recipe:
    return domain_scanners.Recipe({"hidden_size": 8, "weight": 0.05, **options})


_FEATURES = {"layer": "features"}
_ADVERSARY = {**_FEATURES, "hidden_size": 64, "weight": 0.1}

ROWS: dict[str, dict[str, Any]] = {
    "digits": {
        "source only": _digits(),
        "DANN": _digits({"DANN": _ADVERSARY}),
        "CDAN": _digits({"CDAN": _ADVERSARY}),
        "ADDA": _digits({"ADDA": {**_ADVERSARY, "encoder": "features"}}, alone=240),
        "MK-MMD": _digits({"MK_MMD": _FEATURES}),
        "JAN": _digits({"JAN": _FEATURES}),
        "Deep CORAL": _digits({"coral": _FEATURES}),
        "MCD": _digits({"MCD": {**_FEATURES, "head": "head"}}),
        "MDD": _digits({"MDD": _ADVERSARY}),
        "MCC": _digits({"MCC": {"temperature": 2.5}}),
        "DANN + BSP": _digits({"DANN": _ADVERSARY, "BSP": _FEATURES}),
        "AFN": _digits({"AFN": {**_FEATURES, "weight": 0.005}}),
        "entropy": _digits({"entropy": {"weight": 0.1}}),
        "AdaBN": _digits(statistics=True),
        "target-trained": _digits(source="digits"),
    },
    "scanners": {
        "source only": domain_scanners.Recipe(),
        "CAC": _cac(weights=[0.1, 0.1, 1.0]),
        "CAC, masks alone": _cac(weights=[0.0, 0.0, 1.0]),
        "target-trained": domain_scanners.Recipe(source="b"),
    },
    "transfer": {
        "from scratch": domain_transfer.Recipe(),
        "from MNIST": domain_transfer.Recipe(pretrained=True),
        "from MNIST, first convolution frozen": domain_transfer.Recipe(
            pretrained=True, freeze=("features.0", "features.1")
        ),
    },
}
"""For every comparison its rows by name."""

SEARCH: dict[str, dict[str, Any]] = {
    "digits": {
        "DANN, weight 0.1": ROWS["digits"]["DANN"],
        "CDAN, weight 1": _digits({"CDAN": {**_FEATURES, "hidden_size": 64}}),
        "MK-MMD": ROWS["digits"]["MK-MMD"],
        "JAN": ROWS["digits"]["JAN"],
        "MCD": ROWS["digits"]["MCD"],
        "Deep CORAL, weight 10": _digits({"coral": {**_FEATURES, "weight": 10.0}}),
        "Deep CORAL, weight 1": _digits({"coral": _FEATURES}),
        "Deep CORAL, weight 0.1": _digits({"coral": {**_FEATURES, "weight": 0.1}}),
        "MDD, weight 0.1": _digits({"MDD": {**_ADVERSARY, "head": "head"}}),
        "MDD, weight 0.01": _digits({"MDD": {**_ADVERSARY, "head": "head", "weight": 0.01}}),
        "MDD, weight 0.1, without head": _digits({"MDD": _ADVERSARY}),
        "AFN, weight 0.005": _digits({"AFN": {**_FEATURES, "weight": 0.005}}),
        "AFN, weight 0.05": _digits({"AFN": _FEATURES}),
        "entropy, weight 0.1": ROWS["digits"]["entropy"],
    },
    "scanners": {
        "source only": ROWS["scanners"]["source only"],
        "CAC, masks alone, weight 0.05": ROWS["scanners"]["CAC, masks alone"],
    },
    "transfer": {},
}
"""What was tried, on a seed that no row has."""

DRAWN = {"digits": ["source only", "DANN", "CDAN", "MK-MMD", "MCC", "target-trained"]}
"""The rows that stand in the picture."""

DESCRIPTIONS = {
    "digits": """\
Both data sets at 16 × 16, MNIST without its four empty pixels around: 4,000 images with labels, 1,347 digits without;
450 digits are tested. A small network (two convolutions with BatchNorm, 64 features, 10 classes), Adam at 0.002 with a
cosine to 0, 480 steps of 32 images a domain, both domains in one forward (`joint_forward`). ADDA begins after half of
the steps. "Of the gap" is what a method closes of the distance between source only and a network that is trained on the
digits' own labels. Options of each method: `benchmarks/domains_rows.py`. CAC is for segmentation, and stands below.
""",
    "scanners": """\
Shapes with known masks, 32 × 32: 256 images of scanner a with masks, 256 of scanner b (less contrast, blurred,
shaded, noisy) with other shapes and without masks; 200 more of each are tested. MONAI's UNet with 8, 16 and 32 channels
and instance normalisation, Adam at 0.002 with a cosine to 0, 600 steps of 8 images a domain. Dice is of organ and
lesion, in percent. CAC: weight 0.05, discriminators of width 8; encoder and decoder weigh 0.1, masks 1.
""",
    "transfer": """\
The network above on 100 labelled digits, others for each seed: from its own initial weights, and from those of one
that was trained on MNIST for 500 steps, which `finetune` transfers. Adam at 0.001, constant, batches of 20, 60 epochs.
Counted are epochs until the mean over the seeds is as high as that from scratch after its last epoch, and seed by
seed those until a network is as good as the one from scratch of its seed was at the end.
""",
}
"""What every comparison is."""
