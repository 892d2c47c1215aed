"""Losses by name in the table `LOSSES`, each a small pure function, or an object where it owns variables.

A logit loss is called ``f(student_logits, teacher_logits, *, temperature, target=None, mask=None,
axis=-1, sample_weight=None, ...)``, a feature loss ``f(student_feature, teacher_feature, *, ...)``; both
return the mean over the positions, or the batch, of the paper's quantity. `loss_kind` says which of the
two a name is. VID, CRD, ReviewKD and MGD are classes, made from the shapes of both features
(`build_feature_loss`). Channels and classes are last. Everything works eagerly, in a `tf.function`, with
``jit_compile=True`` and with a batch whose size is not known when a graph is traced; nothing draws from
the user's generators.
"""

from __future__ import annotations

from kdhooks_tf.losses.logits import (  # first: in LOSSES, MSE, L1, KL and CE are those on logits
    cross_entropy,
    hard_label,
    jsd,
    kd,
    l1,
    mse,
    reverse_kl,
)

# isort: split
from kdhooks_tf.losses.attention import attention_kl, value_relation
from kdhooks_tf.losses.correlations import dist, logit_standardization, skewed_kl
from kdhooks_tf.losses.crd import CRD
from kdhooks_tf.losses.labelled import dkd, mft, teacher_free
from kdhooks_tf.losses.maps import attention_transfer, fsp, ickd, nst
from kdhooks_tf.losses.mgd import MGD
from kdhooks_tf.losses.modules import LossModule
from kdhooks_tf.losses.pointwise import (
    cosine,
    feature_cross_entropy,
    feature_kl,
    feature_l1,
    feature_l2,
    feature_mse,
    hint,
    pkd,
)
from kdhooks_tf.losses.positions import check_shapes
from kdhooks_tf.losses.relations import correlation_congruence, pkt, rkd, similarity_preserving
from kdhooks_tf.losses.review import ReviewKD
from kdhooks_tf.losses.table import (
    FEATURE_LOSSES,
    LOSSES,
    build_feature_loss,
    feature_loss,
    logit_loss,
    loss_kind,
    takes_sample_weight,
)
from kdhooks_tf.losses.target import TARGET_LOSSES, target_cross_entropy
from kdhooks_tf.losses.vid import VID

__all__ = [
    "CRD",
    "FEATURE_LOSSES",
    "LOSSES",
    "MGD",
    "TARGET_LOSSES",
    "VID",
    "LossModule",
    "ReviewKD",
    "attention_kl",
    "attention_transfer",
    "build_feature_loss",
    "check_shapes",
    "correlation_congruence",
    "cosine",
    "cross_entropy",
    "dist",
    "dkd",
    "feature_cross_entropy",
    "feature_kl",
    "feature_l1",
    "feature_l2",
    "feature_loss",
    "feature_mse",
    "fsp",
    "hard_label",
    "hint",
    "ickd",
    "jsd",
    "kd",
    "l1",
    "logit_loss",
    "logit_standardization",
    "loss_kind",
    "mft",
    "mse",
    "nst",
    "pkd",
    "pkt",
    "reverse_kl",
    "rkd",
    "similarity_preserving",
    "skewed_kl",
    "takes_sample_weight",
    "target_cross_entropy",
    "teacher_free",
    "value_relation",
]
