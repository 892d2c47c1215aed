"""The criteria that a configuration may name: every option, what it must be, its default and its meaning."""

from __future__ import annotations

from kdhooks.config import laws
from kdhooks.config import leaves as a
from kdhooks.config.rules import ListOf, MappingOf, Schedulable
from kdhooks.config.sections import Key, Law, Names, Section

_WEIGHT = Schedulable(at_least=0)
_KNOWLEDGE_DISTILLATION = Section(
    (
        Key("temperature", Schedulable(above=0), 1.0, "softens both distributions; a number or a schedule"),
        Key("loss_types", a.LossTypes(), ["CE", "KL"], "the student's own loss, then the teacher's terms"),
        Key(
            "loss_weights",
            ListOf(_WEIGHT, "a list of weights", least=1),
            [0.5, 0.5],
            "one for each; numbers or schedules",
        ),
        Key("axis", a.WHOLE, None, "the axis of the classes; empty: found from the shape of the logits"),
        Key("ignore_index", a.WHOLE, -100, "positions with this label don't count; empty: all count", null=True),
        Key(
            "teacher_weights",
            MappingOf(_WEIGHT, "weights in a list, or by the teachers' names"),
            None,
            "empty: all alike",
        ),
        Key("combine", a.COMBINE, "losses", "of several teachers: the mean of losses, logits or probabilities"),
        Key("balance", a.BALANCE, None, "gradient: each term pulls as hard as the loop's own loss, times its weight"),
        Key("from_logits", a.BOOLEAN, None, "tensorflow: false where the models return probabilities; empty: true"),
        Key("teacher_from_logits", a.BOOLEAN, None, "the same of the teachers, where it differs"),
    ),
    lambda **values: values,
    laws=(Law(("loss_types", "loss_weights"), laws.losses_agree),),
)
INTERMEDIATE = Section(
    (
        Key("layer_mappings", a.LayerMappings(), None, "pairs of layers: [student, teacher], and more forms"),
        Key("layer_mappings_for_knowledge_transfer", a.LayerMappings(), None, "the classic name of layer_mappings"),
        Key(
            "loss_types",
            ListOf(a.FeatureLoss(), "a list of losses", least=1, alone=True),
            None,
            "one for all, or one for each mapping; empty: MSE",
        ),
        Key(
            "loss_weights",
            ListOf(_WEIGHT, "a list of weights", least=1, alone=True),
            None,
            "numbers or schedules; empty: 1 / pairs",
        ),
        Key("add_origin_loss", a.BOOLEAN, False, "whether the loop's own loss counts"),
        Key(
            "feature_matchers",
            ListOf(a.FeatureMatcher(), "a list of matchers", least=1, alone=True),
            None,
            "what makes shapes agree; empty: auto",
        ),
        Key("teacher", a.TEXT, None, "which of several teachers is followed, by its name"),
        Key("feature_mask", a.TEXT, None, "key of the input whose mask says which tokens count, as attention_mask"),
        Key("balance", a.BALANCE, None, "gradient: each term pulls as hard as the loop's own loss, times its weight"),
    ),
    lambda **values: values,
    laws=(
        Law(("layer_mappings", "layer_mappings_for_knowledge_transfer"), laws.one_kind_of_mappings),
        Law(
            (
                "layer_mappings",
                "layer_mappings_for_knowledge_transfer",
                "loss_types",
                "loss_weights",
                "feature_matchers",
            ),
            laws.pairs_agree,
        ),
    ),
)
"""The options of the criterion, which the stages of a search have as well."""

_SELF = Section(
    (
        Key("layer_mappings", a.LayerMappings(groups=True), None, "groups of the student's own layers"),
        Key("temperature", Schedulable(above=0), 1.0, "softens both sides of losses that soften; or a schedule"),
        Key(
            "loss_types",
            ListOf(a.FeatureLoss(), "a list of losses", least=1, alone=True),
            None,
            "one for all, or one for each group; empty: CE",
        ),
        Key(
            "loss_weights",
            ListOf(_WEIGHT, "a list of weights", least=1, alone=True),
            None,
            "numbers or schedules; empty: 1 / groups",
        ),
        Key("add_origin_loss", a.BOOLEAN, False, "whether the loop's own loss counts"),
        Key(
            "feature_matchers",
            ListOf(a.FeatureMatcher(), "a list of matchers", least=1, alone=True),
            None,
            "what makes shapes agree; empty: auto",
        ),
        Key("feature_mask", a.TEXT, None, "key of the input whose mask says which tokens count, as attention_mask"),
        Key("balance", a.BALANCE, None, "gradient: each term pulls as hard as the loop's own loss, times its weight"),
    ),
    lambda **values: values,
    laws=(Law(("layer_mappings", "loss_types", "loss_weights", "feature_matchers"), laws.groups_agree),),
)
_LARGE_VOCABULARY = Section(
    (
        Key("student_head", a.TEXT, None, "the student's linear layer over the vocabulary"),
        Key("teacher_head", a.TEXT, None, "the teacher's; empty: the same name"),
        Key("student_hidden", a.LayerSide(), None, "the layer that gives the hidden states; empty: the head's input"),
        Key("teacher_hidden", a.LayerSide(), None, "the same of the teacher"),
        Key("temperature", Schedulable(above=0), 1.0, "softens both distributions; a number or a schedule"),
        Key("loss_types", a.LossTypes(), ["CE", "KL"], "CE of the labels, then KL, JSD or reverse_KL"),
        Key("loss_weights", ListOf(_WEIGHT, "a list of weights", least=1), [0.5, 0.5], "of both; numbers or schedules"),
        Key("add_origin_loss", a.BOOLEAN, False, "true: the loop's own loss is the CE, and is not computed here"),
        Key("shift", a.BOOLEAN, False, "the label of a token stands one place behind it, as in causal models"),
        Key("ignore_index", a.WHOLE, -100, "tokens with this label don't count"),
        Key("vocabulary", a.VOCABULARY, None, "classes to compare where the sizes differ: common, student, teacher"),
        Key("logit_scale", a.POSITIVE, 1.0, "multiplies the student's logits"),
        Key("teacher_logit_scale", a.POSITIVE, 1.0, "multiplies the teacher's logits"),
        Key("softcap", a.POSITIVE, None, "c of c tanh(z / c) on the student's logits"),
        Key("teacher_softcap", a.POSITIVE, None, "the same of the teacher"),
        Key("chunk_size", a.FROM_ONE, None, "tokens of one chunk; empty: as many as fit"),
        Key("teacher", a.TEXT, None, "which of several teachers is followed, by its name"),
    ),
    laws.without_empty,
    laws=(
        Law(("student_head",), laws.head_is_named),
        Law(("loss_types", "loss_weights"), laws.losses_agree),
        Law(("loss_types",), laws.losses_in_chunks),
    ),
)
CRITERION = Names(
    "criterion",
    many=True,
    least=1,
    options={
        "KnowledgeDistillationLoss": _KNOWLEDGE_DISTILLATION,
        "IntermediateLayersKnowledgeDistillationLoss": INTERMEDIATE,
        "SelfKnowledgeDistillationLoss": _SELF,
        "LargeVocabularyDistillationLoss": _LARGE_VOCABULARY,
    },
)
"""The criteria by name, with their options."""
