"""The page of a run: whole HTML, nothing from elsewhere, everything escaped, no text over another, at every edge."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from kdhooks.errors import DataError, UsageError
from kdhooks.report import page, write_report
from tests.core.report import made_up
from tests.core.report.made_up import record
from tests.core.svg_geometry import drawings, overlapping, tags_of, texts_outside

NASTY = "</svg></title><script>alert('x')</script>&\"<b>"
LARGEST, LONGEST = 3_000_000, 5.0
NOTHING: dict[str, Any] = {
    "history": [],
    "steps": {"step": [], "learning_rate": [], "losses": {}},
    "models": {},
    "ledger": None,
    "similarity": None,
    "confusion": None,
    "disagreements": [],
}


def headings(text: str) -> list[str]:
    return re.findall(r"<h[12][^>]*>(.*?)</h[12]>", text)


def with_gaps(epochs: int, *, every: int) -> list[dict[str, Any]]:
    """Epochs in which losses and metrics are not finite now and then."""
    found = made_up.history(epochs)
    for at in range(0, epochs, every):
        found[at]["losses"] = {name: None for name in found[at]["losses"]}
        found[at]["metrics"] = {"accuracy": None}
    return found


def valued(value: float | None, epochs: int = 5) -> list[dict[str, Any]]:
    """Epochs in which every number is the same."""
    found = made_up.history(epochs)
    for entry in found:
        entry["losses"] = {name: value for name in entry["losses"]}
        entry["metrics"] = {"accuracy": value}
    return found


def nasty() -> dict[str, Any]:
    """A record in which every text is one that would break a page."""
    found = record(3)
    for entry in found["history"]:
        entry["losses"] = {NASTY: 1.0, "total": 2.0}
        entry["metrics"] = {NASTY: 0.5}
    found["steps"]["losses"] = {NASTY: found["steps"]["losses"]["CE"]}
    found["models"] = {"student": made_up.model(10, 1, 0.9, NASTY), NASTY: made_up.model(20, 2, 0.9, NASTY)}
    found["confusion"]["classes"] = [NASTY] * 10
    found["similarity"]["student_layers"] = [NASTY] * 7
    found["similarity"]["teacher_layers"] = [NASTY] * 16
    found["ledger"]["parts"][NASTY] = found["ledger"]["parts"]["data"]
    found["ledger"] |= {"device": NASTY, "notes": [NASTY], "elsewhere": {NASTY: {"sum": 1.0, "times": 2}}}
    for entry in found["disagreements"]:
        entry |= {"teacher": NASTY, "student": NASTY, "label": NASTY, "image": f"data:image/png;base64,{NASTY}"}
        entry |= {"text": NASTY, "row": NASTY}
    texts = {"name": NASTY, "device": NASTY, "framework": NASTY, "began": NASTY, "ended": NASTY, "status": NASTY}
    maps = {"versions": {NASTY: NASTY}, "machine": {NASTY: {NASTY: NASTY}}, "missing": {NASTY: NASTY}}
    return found | texts | maps | {"configuration": NASTY, "seed": NASTY}


def wide_layers() -> dict[str, Any]:
    found = made_up.similarity(90, 130)
    for side in ("student_layers", "teacher_layers"):
        found[side] = [f"base_model.encoder.layers.{name}.attention.output.dense" for name in found[side]]
    found["before"][3] = [None] * 130
    found["after"][0][0] = -0.02
    return found


EDGES: dict[str, dict[str, Any]] = {
    "nothing": record(**NOTHING),
    "one epoch": record(1),
    "two epochs": record(2),
    "hundred epochs": record(100),
    "many epochs": record(3000),
    "no metrics": record(
        history=[{**entry, "metrics": {}, "score": None, "best": False} for entry in record()["history"]]
    ),
    "gaps": record(history=with_gaps(24, every=5)),
    "gaps in a long run": record(history=with_gaps(900, every=3)),
    "all gaps": record(history=valued(None), steps=NOTHING["steps"]),
    "zeros": record(history=valued(0.0)),
    "equal": record(history=valued(0.7)),
    "negative": record(history=valued(-3.0)),
    "huge": record(history=valued(3.2e14)),
    "tiny": record(history=valued(4.1e-11)),
    "no epochs, but steps": record(history=[]),
    "several teachers": record(
        models={
            "student": made_up.model(33_000, 1.2, 0.944),
            "teacher": made_up.model(275_000, 4.9, 0.961),
            "a teacher with quite a long name": made_up.model(475_000, 9.9, 0.963),
            "third": made_up.model(95_000, 2.9, 0.9609),
        }
    ),
    "models without numbers": record(models={"student": {"class": "ResNet"}, "teacher": None}),
    "one class": record(confusion=made_up.confusion(1)),
    "30 classes": record(confusion=made_up.confusion(30)),
    "100 classes": record(confusion=made_up.confusion(100)),
    "1000 classes": record(confusion=made_up.confusion(1000, 50_000)),
    "total agreement": record(confusion={"classes": ["a", "b"], "teacher_student": [[5, 0], [0, 5]]}),
    "wide layers": record(similarity=wide_layers()),
    "one layer": record(similarity=made_up.similarity(1, 1)),
    "before only": record(similarity=made_up.similarity(3, 4) | {"after": None}),
    "texts": record(disagreements=made_up.disagreements(40, texts=True)),
    "running": record(status="running", ended=None, missing={"similarity": "the run has not ended"}, similarity=None),
    "nasty": nasty(),
}
every_edge = pytest.mark.parametrize("run", EDGES.values(), ids=EDGES)


def test_every_section_has_a_heading_that_says_what_was_found() -> None:
    assert headings(page(record())) == [
        "The student keeps 98.2% of the teacher&#x27;s accuracy with 12% of its parameters, 4.1 times as fast",
        "The student has 12% of the teacher&#x27;s parameters and is 4.1 times as fast",
        "Accuracy was highest in epoch 20: 94.3%, 1.8 points below the teacher",
        "The total loss fell from 8.39 to 0.089 over 24 epochs",
        "Student and teacher agree on 93.0% of 10,000 rows",
        "Of the 8 they see most differently the teacher has 5 right, the student 3",
        "The student&#x27;s layers grew nearer to the teacher&#x27;s: best matches from 0.70 to 0.95",
        "A step takes 1.79 times what the student alone would need; the teacher takes 42% of it",
        "Made with kdhooks 0.1.0, torch 2.13.0, seed 1978",
    ]


def test_links_lead_to_the_sections() -> None:
    tags = tags_of(page(record()))
    places = [attributes["id"] for tag, attributes in tags if tag == "section"]
    links = [attributes["href"] for tag, attributes in tags if tag == "a"]
    assert links == [f"#{place}" for place in places]
    assert len(set(places)) == len(places) == 8
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(set(ids)) == len(ids)


def test_nothing_is_loaded_and_nothing_runs() -> None:
    text = page(record())
    tags = tags_of(text)
    assert {tag for tag, _ in tags} & {"script", "link", "iframe", "object", "embed", "base", "form"} == set()
    names = {name for _, attributes in tags for name in attributes}
    assert names & {"style", "srcset", "action"} == set()
    assert not any(name.startswith("on") for name in names)
    assert {attributes["src"][:22] for _, attributes in tags if attributes.get("src")} == {"data:image/png;base64,"}
    assert re.findall(r"https?:[^\"' ]*", text.replace("http://www.w3.org/2000/svg", "")) == []
    assert "@import" not in text and "url(" not in text


def test_the_policy_allows_the_style_sheet_and_pictures_of_the_file_itself() -> None:
    text = page(record())
    policies = [a["content"] for tag, a in tags_of(text) if a.get("http-equiv") == "Content-Security-Policy"]
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style.group(1).encode()).digest()).decode()
    assert policies == [f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:"]


def test_everything_of_a_user_is_escaped() -> None:
    text = page(nasty())
    assert "<script" not in text and "<b></b>" not in text
    tags = [tag for tag, _ in tags_of(text)]
    assert tags.count("title") == 1 + sum(
        len(list(d.iter("{http://www.w3.org/2000/svg}title"))) for d in drawings(text)
    )
    assert tags.count("svg") == len(drawings(text))
    assert tags.count("img") == 0  # of a picture that is none
    assert text.count("&lt;script&gt;") > 30
    assert page(record()).count("# &lt;b&gt;not bold&lt;/b&gt;") == 1


@pytest.mark.parametrize(
    "image",
    [
        "https://example.org/a.png",
        "data:text/html;base64,PGI+",
        "data:image/svg+xml;base64,PHN2Zz4=",
        "javascript:1",
        7,
    ],
)
def test_only_pictures_that_stand_in_the_record_are_shown(image: Any) -> None:
    text = page(record(disagreements=[{"row": 1, "teacher": "a", "student": "b", "image": image}]))
    assert [tag for tag, _ in tags_of(text) if tag == "img"] == []
    assert str(image) not in text.replace("1978", "") or image == 7


@every_edge
def test_runs_at_their_edges(run: dict[str, Any]) -> None:
    text = page(run)
    tags_of(text)
    assert len(text.encode()) < LARGEST
    numbers = re.findall(r' (?:x|y|x1|x2|y1|y2|cx|cy|r|d|width|height)="([^"]*)"', text)
    assert not any("nan" in number or "inf" in number for number in numbers)
    assert not re.search(r">[^<]*\b(?:nan|inf|None)\b[^<]*<", re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL))
    for drawing in drawings(text):
        label = drawing.attrib["aria-label"]
        assert (label, texts_outside(drawing), overlapping(drawing)) == (label, [], [])
        sizes = [float(bar.attrib[side]) for bar in drawing.iter() for side in ("width", "height") if "rect" in bar.tag]
        assert all(size > 0 for size in sizes)


def test_what_is_missing_is_named_with_its_reason() -> None:
    reasons = {"similarity": "the student has no layers", "ledger": "the run was not profiled", "extra": "never heard"}
    text = page(record(similarity=None, ledger=None, missing=reasons))
    assert headings(text)[-1] == "3 sections are not on this page"
    for cell in ("layer similarity", "the student has no layers", "what a step costs", "the run was not profiled"):
        assert f">{cell}</td>" in text
    bare = page(record(**NOTHING))
    assert headings(bare) == [
        "No epoch has ended yet",
        "Made with kdhooks 0.1.0, torch 2.13.0, seed 1978",
        "6 sections are not on this page",
    ]
    assert bare.count("the run&#x27;s record has none and gives no reason") == 6
    assert "not on this page" not in page(record())


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ("running", "The run is still under way, or was killed: this is what was known when its last epoch ended."),
        ("stopped", "The run was stopped before its end."),
        ("failed", "The run failed: this is what was known by then."),
    ],
)
def test_the_state_of_a_run_that_did_not_finish_is_told(status: str, words: str) -> None:
    assert f'<p class="warning" role="status">{words}</p>' in page(record(status=status))
    assert 'class="warning"' not in page(record())


def test_a_long_run_is_quick_and_small() -> None:
    run = record(100)
    begin = time.perf_counter()
    text = page(run)
    assert time.perf_counter() - begin < LONGEST
    assert len(text.encode()) < LARGEST


def test_the_number_of_pictures_has_a_limit() -> None:
    big = "data:image/png;base64," + "A" * 400_000
    samples = [{"row": at, "teacher": "a", "student": "b", "image": big} for at in range(10)]
    text = page(record(disagreements=samples))
    assert len([tag for tag, _ in tags_of(text) if tag == "img"]) == 3
    assert "7 pictures are left out, since the page would be too large." in text
    assert len(text.encode()) < LARGEST


def test_pictures_have_names_and_numbers_for_those_who_do_not_see_them() -> None:
    for drawing in drawings(page(record())):
        assert drawing.attrib["role"] == "img" and drawing.attrib["aria-label"]
        assert [child.text for child in drawing if child.tag.endswith("desc")] != []


def test_the_page_is_written_beside_the_record_or_where_it_is_wanted(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps(record()))
    assert write_report(tmp_path) == tmp_path / "report.html"
    assert write_report(str(tmp_path / "run.json"), tmp_path / "new" / "a.html") == tmp_path / "new" / "a.html"
    assert write_report(record(), tmp_path / "b.html") == tmp_path / "b.html"
    texts = {(tmp_path / name).read_text() for name in ("report.html", "new/a.html", "b.html")}
    assert texts == {page(record())}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.html", "new", "report.html", "run.json"]


def test_bad_records_are_told(tmp_path: Path) -> None:
    def told(content: Any, out: Path | None = None) -> str:
        path = tmp_path / "run.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        with pytest.raises((DataError, UsageError)) as caught:
            write_report(path, out)
        return str(caught.value).replace(str(path), "RUN")

    assert told('{"format": "kdhooks run", "ver') == "RUN is damaged, or no record of a run: it is no JSON"
    assert told([1]) == "RUN is no record of a run of kdhooks"
    assert told(record(format="kdhooks search result")) == "RUN is no record of a run of kdhooks"
    assert told(record(version=2)) == (
        "the record RUN is of version 2, and this kdhooks reads up to version 1: update kdhooks"
    )
    assert told(record(history={})) == "the record RUN is damaged: 'history' is no list"
    broken = record(similarity=made_up.similarity(3, 4) | {"before": [[0.5]]})
    assert told(broken) == "RUN is damaged: IndexError: list index out of range"
    assert told(record(), tmp_path / "run.json") == ("the page would be written over the record RUN: name another file")
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]
    with pytest.raises(DataError) as caught:
        write_report(tmp_path / "none")
    assert str(caught.value) == (
        f"there is no record of a run at {tmp_path / 'none'}: fit() writes one into the run's folder, "
        "tuning.workspace.path"
    )
    with pytest.raises(UsageError, match="so it needs out"):
        write_report(record())
    with pytest.raises(DataError, match=r"the page .*/run.json/a.html can't be written: "):
        write_report(record(), tmp_path / "run.json" / "a.html")


def test_the_page_needs_neither_matplotlib_nor_a_framework() -> None:
    code = (
        "import sys\n"
        "sys.modules['matplotlib'] = None\n"
        "from tests.core.report.made_up import record\n"
        "from kdhooks.report import page\n"
        "assert 'What a step costs' in page(record())\n"
        "assert not {'torch', 'tensorflow', 'keras'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
