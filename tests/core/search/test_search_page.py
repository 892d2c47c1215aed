"""The page of a search: whole HTML, nothing from elsewhere, everything escaped, nothing drawn over another."""

from __future__ import annotations

import base64
import hashlib
import re
import subprocess
import sys
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from kdhooks.config.search_settings import Choices, SearchSettings
from kdhooks.search.candidates import Candidate
from kdhooks.search.results.plots_history import history_plot
from kdhooks.search.results.plots_pareto import metric_pairs, pareto_plot
from kdhooks.search.results.result import SearchResult
from tests.core.search.made_up import SETTINGS, TWO, complete, searched
from tests.core.svg_geometry import SVG, drawings, overlapping, tags_of, texts_outside


def test_the_page_is_whole_and_has_every_part() -> None:
    page = searched().html()
    tags_of(page)
    headings = re.findall(r"<h2>(.*?)</h2>", page)
    assert headings[0].startswith("The best: #")
    assert headings[1:] == [
        "History",
        "Trade-offs",
        "Importance of the parameters",
        "Parallel coordinates",
        "Candidates",
        "Configuration of the search",
    ]
    # three histories, three pairs, three importances, parallel coordinates
    assert len(drawings(page)) == 10


def test_nothing_is_loaded_and_nothing_runs() -> None:
    page = searched().html()
    tags = tags_of(page)
    assert {tag for tag, _ in tags} & {"script", "link", "iframe", "img", "object", "embed", "base", "form"} == set()
    names = {name for _, attributes in tags for name in attributes}
    assert names & {"src", "href", "style", "srcset", "action"} == set()
    assert not any(name.startswith("on") for name in names)
    assert re.findall(r"https?:[^\"' ]*", page.replace("http://www.w3.org/2000/svg", "")) == []
    assert "@import" not in page and "url(" not in page


def test_the_policy_allows_the_style_sheet_and_nothing_else() -> None:
    page = searched().html()
    policies = [a["content"] for tag, a in tags_of(page) if a.get("http-equiv") == "Content-Security-Policy"]
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style.group(1).encode()).digest()).decode()
    assert policies == [f"default-src 'none'; style-src 'sha256-{digest}'"]


def test_everything_of_a_user_is_escaped() -> None:
    nasty = "</svg></title><script>alert('x')</script>&\"<b>"
    settings = SearchSettings(
        search_space=(Choices(nasty, (nasty, "b")),),
        metrics=(nasty, "b"),
        higher_is_better=(True, False),
        study_name=nasty,
    )
    rows = [Candidate(at, {nasty: nasty if at % 2 else "b"}, "complete", {nasty: at, "b": at}) for at in range(12)]
    rows.append(Candidate(12, {nasty: "b"}, "failed", reason=nasty))
    page = SearchResult(rows, settings, nasty).html()
    assert "<script" not in page and "<b>b" not in page.replace("<b>b</b>", "")
    assert len([tag for tag, _ in tags_of(page) if tag == "svg"]) == len(drawings(page)) == 6
    assert page.count("&lt;script&gt;") > 10


@pytest.mark.parametrize(
    "result",
    [
        SearchResult([], TWO),
        SearchResult([complete(0, 0.9, 0.1)], TWO),
        SearchResult([complete(0, 0.9, 0.1), complete(1, 0.9, 0.1)], TWO),
        SearchResult([complete(at, 0.0, 0.0) for at in range(12)], TWO),
        SearchResult([complete(at, -1e12 * at, 1e-12 * at) for at in range(12)], TWO),
        SearchResult([Candidate(0, {}, "failed", reason="boom")], TWO),
        SearchResult([Candidate(0, {"a": None, "b": True}, "running")], TWO),
        SearchResult([replace(complete(at, 0.5, 0.1), arch={"only": at} if at else {}) for at in range(4)], TWO),
        SearchResult([complete(at, float("nan"), 0.1) for at in range(3)], TWO),
    ],
    ids=["empty", "one", "equal", "zeros", "extreme", "failed", "running", "conditional", "nan"],
)
def test_searches_at_their_edges(result: SearchResult) -> None:
    page = result.html()
    tags_of(page)
    numbers = re.findall(r'(?:x|y|x1|x2|y1|y2|cx|cy|d|width|height)="([^"]*)"', page)
    assert not any("nan" in number or "inf" in number for number in numbers)
    for drawing in drawings(page):
        assert texts_outside(drawing) == []


def test_without_a_complete_candidate_the_page_says_so() -> None:
    page = SearchResult([Candidate(0, {}, "failed", reason="boom")], TWO).html()
    assert "None of the 1 candidates is complete, so there is no best one." in page
    assert "boom" in page


def test_one_metric_has_no_trade_offs() -> None:
    settings = SearchSettings(metrics=("loss",), higher_is_better=(False,))
    page = SearchResult([complete(at, 1.0 + at, names=("loss",)) for at in range(5)], settings).html()
    assert "Trade-offs" not in page and "Pareto" not in page


@pytest.mark.parametrize("count", [3, 12, 60, 400])
def test_no_text_covers_another_or_leaves_its_picture(count: int) -> None:
    for drawing in drawings(searched(count).html()):
        assert (drawing.attrib["aria-label"], texts_outside(drawing), overlapping(drawing)) == (
            drawing.attrib["aria-label"],
            [],
            [],
        )


def test_every_candidate_is_marked_once_in_a_history() -> None:
    result = searched()
    drawing = ElementTree.fromstring(history_plot(result, "accuracy"))
    hints = [title.text or "" for title in drawing.iter(f"{SVG}title")]
    marked = sorted(int(hint.split()[0][1:]) for hint in hints if hint.startswith("#"))
    assert marked == list(range(60))
    assert result.best is not None
    star = next(hint for hint in hints if hint.startswith(f"#{result.best.number} "))
    assert star.splitlines()[1] == f"accuracy: {result.best.metrics['accuracy']:.4f}"


def test_the_best_so_far_only_gets_better() -> None:
    drawing = ElementTree.fromstring(history_plot(searched(), "accuracy"))
    line = next(path for path in drawing.iter(f"{SVG}path") if path.attrib["class"] == "bestline")
    heights = [float(point.split(",")[1]) for point in line.attrib["d"][1:].split("L")]
    assert heights == sorted(heights, reverse=True)  # upwards in px


def test_many_metrics_are_drawn_with_the_first_one() -> None:
    assert metric_pairs(("a", "b", "c")) == [("a", "b"), ("a", "c"), ("b", "c")]
    assert metric_pairs(tuple("abcdef")) == [("a", other) for other in "bcdef"]


def test_the_page_needs_neither_optuna_nor_matplotlib_nor_a_framework() -> None:
    code = (
        "import sys\n"
        "sys.modules['optuna'] = sys.modules['matplotlib'] = None\n"
        "from tests.core.search.made_up import searched\n"
        "assert 'History' in searched().html()\n"
        "assert not {'torch', 'tensorflow', 'keras'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_configuration_is_told() -> None:
    page = searched().html()
    for text in (
        "postgresql://me:***@host/studies",
        "accuracy (higher is better), latency (lower is better), parameters (lower is better)",
        "3, 5, 7; where block is plain or residual",
        "whole numbers from 2 to 8",
        "numbers from 0.0001 to 0.1, by ratio",
        "latency &lt;= 5 ms",
    ):
        assert text in page
    assert "secret" not in page


def test_long_searches_have_the_best_rows() -> None:
    result = searched(1100, settings=replace(SETTINGS, metrics=("accuracy",), higher_is_better=(True,)))
    page = result.html()
    assert "100 more are in result.json." in page


def test_a_value_far_off_does_not_press_the_others_together() -> None:
    rows = [complete(at, 0.9 + 0.001 * at, 0.1 * (21 - at)) for at in range(20)]
    plain = pareto_plot(SearchResult(rows, TWO), "accuracy", "latency")
    poor = pareto_plot(SearchResult([*rows, complete(20, 0.1, 0.2)], TWO), "accuracy", "latency")
    assert "1 far off, at the edge" in poor and "far off" not in plain
    heights = [re.findall(r'cy="([\d.]+)" r="4\.6"', plot) for plot in (plain, poor)]
    assert heights[0] == heights[1]
    # A good one is never cut off, however far it is.
    assert "far off" not in pareto_plot(SearchResult([*rows, complete(20, 9.0, 0.2)], TWO), "accuracy", "latency")
