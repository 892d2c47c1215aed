"""Which tensor belongs to which, by names and shapes, and what is reported of it."""

from __future__ import annotations

import json

import pytest

from kdhooks.config import DistillationConf
from kdhooks.errors import TransferError
from kdhooks.transfer import Layout, plan

LAYOUT = Layout(inputs=1, classes=0)
BODY = {"conv.weight": (4, 3, 3, 3), "conv.bias": (4,)}
NET = {**BODY, "fc.weight": (5, 4), "fc.bias": (5,)}


def below(prefix, shapes):
    return {prefix + name: shape for name, shape in shapes.items()}


def planned(target, source, tied=None, fixed=(), **options):
    settings = DistillationConf({"finetune": options}).settings.finetune
    return plan(target, source, settings, LAYOUT, tied=tied, fixed=fixed, names=("net.pt", "Net"))


def moves(made):
    return {move.target: move.source for move in made.moves}


def failed(target, source, **options):
    with pytest.raises(TransferError) as caught:
        planned(target, source, **options)
    return str(caught.value), caught.value.key


def test_equal_names_of_one_shape_go_together():
    made = planned(NET, dict(reversed(NET.items())))
    assert moves(made) == {name: name for name in NET}
    assert all(move.resize is None for move in made.moves)
    assert made.report.transferred == tuple(NET) and made.report.share == 1.0


def test_rename_rules_act_in_order_and_null_leaves_out():
    source = {"net.conv.weight": (4, 3, 3, 3), "net.head.weight": (5, 4), "net.fc.weight": (9, 4)}
    made = planned(NET, source, rename={r"^net\.": "", "^fc": None, "^head": "fc"})
    assert moves(made) == {"conv.weight": "net.conv.weight", "fc.weight": "net.head.weight"}
    (left,) = made.report.of("unused")
    assert (left.name, left.why) == ("net.fc.weight", "left out by rename")


def test_groups_of_an_expression_stand_in_the_new_name():
    made = planned({"layers.3.weight": (2,)}, {"h_3/weight": (2,)}, rename={r"h_(\d+)/": r"layers.\1."})
    assert moves(made) == {"layers.3.weight": "h_3/weight"}


def test_a_rule_that_makes_one_name_of_two_is_refused():
    source = {"fc.weight": (5, 4), "head.weight": (5, 4)}
    assert failed(NET, source, rename={"^head": "fc"}) == (
        "the rules map two tensors of the source to 'fc.weight': 'fc.weight' and 'head.weight'. "
        "Map one of them to null, which leaves it out",
        "rename",
    )


def test_a_rule_that_fits_nothing_is_noted():
    assert planned(NET, NET, rename={"^bert": ""}).report.notes == (
        "the rename rule '^bert' fits no name of the source",
    )


@pytest.mark.parametrize("prefix", ["module.", "model.backbone.", "bert/"])
def test_what_stands_before_the_names_of_one_side_is_found(prefix):
    made = planned(NET, below(prefix, NET))
    assert moves(made) == {name: prefix + name for name in NET}
    assert {entry.why for entry in made.report.of("transferred")} == {f"without {prefix!r}"}
    back = planned(below(prefix, NET), NET)
    assert moves(back) == {prefix + name: name for name in NET}
    assert {entry.why for entry in back.report.of("transferred")} == {f"below {prefix!r}"}


def test_parts_behind_several_prefixes_are_found_one_after_another():
    source = {**below("encoder.", BODY), **below("task.", {"fc.weight": (5, 4)})}
    assert moves(planned(NET, source)) == {
        "conv.weight": "encoder.conv.weight",
        "conv.bias": "encoder.conv.bias",
        "fc.weight": "task.fc.weight",
    }


def test_a_head_of_another_shape_does_not_hide_a_prefix():
    made = planned(NET, below("module.", {**BODY, "fc.weight": (9, 4)}))
    assert set(moves(made)) == set(BODY)
    assert made.report.skipped == ("fc.weight",)


def test_prefixes_that_fit_equally_well_are_left_to_the_user():
    source = {**below("student.", BODY), **below("teacher.", BODY)}
    text, key = failed(NET, source)
    assert text == (
        "nothing of net.pt fits Net: the source has 'student.conv.weight', 'student.conv.bias', "
        "'teacher.conv.weight' and 1 more, and the student 'conv.weight', 'conv.bias', 'fc.weight' and 1 more; "
        "the prefixes 'student.', 'teacher.' fit equally well, so none was taken off: write a rename rule. "
        "Write rename rules, or by_order: true"
    )
    assert key == ""
    named = planned(NET, source, prefixes=["teacher."])
    assert moves(named) == {name: f"teacher.{name}" for name in BODY}


def test_prefixes_none_takes_names_as_they_are():
    assert failed(NET, below("module.", NET), prefixes="none")[0].startswith("nothing of net.pt fits Net")


def test_by_order_takes_the_same_shapes_in_the_same_order():
    source = {"a": (4, 3, 3, 3), "b": (4,), "counter": (), "c": (5, 4), "d": (5,)}
    made = planned(NET, source, by_order=True)
    assert list(moves(made).values()) == ["a", "b", "c", "d"]
    assert made.report.unused == ("counter",)
    assert made.report.entries[0].why == "by order"


def test_excluded_tensors_keep_their_values():
    made = planned(NET, NET, exclude=["fc"])
    assert set(moves(made)) == set(BODY)
    assert [(one.name, one.why) for one in made.report.of("skipped")] == [
        ("fc.weight", "excluded"),
        ("fc.bias", "excluded"),
    ]


def test_another_shape_may_be_an_error():
    source = {**BODY, "fc.weight": (9, 4), "fc.bias": (9,)}
    assert failed(NET, source, on_mismatch="error") == (
        "net.pt does not fit Net: 'fc.weight' is of shape [9, 4] there and [5, 4] here; "
        "'fc.bias' is of shape [9] there and [5] here. "
        "Write on_mismatch: skip, or slice, repeat or interpolate by pattern",
        "on_mismatch",
    )
    made = planned(NET, source, on_mismatch={"*.bias": "slice", "fc": "skip", "*": "error"})
    assert made.report.resized == ("fc.bias",) and made.report.skipped == ("fc.weight",)


def test_the_first_pattern_that_fits_counts():
    made = planned({**BODY, "fc.bias": (5,)}, {**BODY, "fc.bias": (9,)}, on_mismatch={"fc": "skip", "*": "slice"})
    assert made.report.skipped == ("fc.bias",)


def test_nothing_transferred_is_an_error():
    assert failed(NET, {"x": (1,)}) == (
        "nothing of net.pt fits Net: the source has 'x', and the student 'conv.weight', 'conv.bias', 'fc.weight' "
        "and 1 more. Write rename rules, or by_order: true",
        "",
    )
    assert failed({"fc.bias": (5,)}, {"fc.bias": (9,)})[0] == (
        "nothing of net.pt fits Net: 1 names agree, and each tensor is left out, as 'fc.bias': another shape, "
        "[9] there and [5] here. Write on_mismatch: slice, repeat or interpolate, or name other weights"
    )


def test_a_pattern_that_means_nothing_is_refused_with_the_nearest_name():
    assert failed(NET, NET, exclude=["conv1"]) == (
        "exclude: Net has nothing that 'conv1' fits. Did you mean 'conv'?",
        "exclude",
    )


def test_a_second_name_of_a_tensor_comes_with_the_first():
    target = {"embedding.weight": (9, 4), "head.weight": (9, 4)}
    made = planned(target, {"embedding.weight": (9, 4)}, tied={"head.weight": "embedding.weight"})
    assert made.report.transferred == ("embedding.weight", "head.weight")
    assert made.report.entries[1].why == "it is the same tensor as 'embedding.weight'"


def test_whole_numbers_are_never_resized():
    made = planned({**BODY, "ids": (8,)}, {**BODY, "ids": (4,)}, fixed={"ids"}, on_mismatch="slice")
    assert [(one.name, one.why) for one in made.report.of("skipped")] == [
        ("ids", "another shape, and whole numbers are not resized")
    ]


def test_the_report_tells_all_of_it_as_text_dict_and_json():
    made = planned(
        {**NET, "new.weight": (2, 2)},
        below("module.", {**BODY, "fc.weight": (9, 4), "fc.bias": (9,), "old": (7,)}),
        on_mismatch={"fc.weight": "slice"},
    )
    report = made.report
    assert str(report).splitlines() == [
        "weights of net.pt in Net: 93.6% of 141 numbers",
        "2 transferred, 1 resized, 1 skipped, 1 left at initialisation, 1 unused in the source",
        "tensor       shape         from                its shape     what happened",
        "conv.weight  [4, 3, 3, 3]  module.conv.weight  [4, 3, 3, 3]  transferred: without 'module.'",
        "conv.bias    [4]           module.conv.bias    [4]           transferred: without 'module.'",
        "fc.weight    [5, 4]        module.fc.weight    [9, 4]        resized: without 'module.', slice",
        "fc.bias      [5]           module.fc.bias      [9]           skipped: another shape",
        "new.weight   [2, 2]                                          left at initialisation",
        "                           module.old          [7]           unused in the source",
    ]
    assert json.loads(report.to_json()) == report.to_dict()
    assert report.to_dict()["counts"] == {"transferred": 2, "resized": 1, "skipped": 1, "initial": 1, "unused": 1}
    assert report.share == (108 + 4 + 20) / (108 + 4 + 20 + 5 + 4)
    assert report.to_dict()["entries"][3] == {
        "status": "skipped",
        "name": "fc.bias",
        "source": "module.fc.bias",
        "shape": [5],
        "source_shape": [9],
        "why": "another shape",
    }


def test_long_lists_are_cut_in_text_and_whole_in_the_rest():
    source = {**NET, **{f"more.{index}": (1,) for index in range(20)}}
    report = planned(NET, source).report
    assert str(report).count("more.") == 12
    assert str(report).splitlines()[-1] == "and 8 more unused in the source: report.text(everything=True)"
    assert report.text(everything=True).count("more.") == 20 and len(report.unused) == 20


def test_text_leaves_out_what_went_over_as_it_is_unless_all_is_asked_for():
    report = planned(NET, NET).report
    assert str(report).splitlines() == [
        "weights of net.pt in Net: 100.0% of 137 numbers",
        "4 transferred, 0 resized, 0 skipped, 0 left at initialisation, 0 unused in the source",
    ]
    assert "conv.bias    [4]           the same  [4]           transferred" in report.text(everything=True)
