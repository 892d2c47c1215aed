"""The reader of the documentation's pages, on pages that keep its rules and on pages that break them."""

from __future__ import annotations

import pytest

from tests.docs.pages import Block, blocks_of, commands_of, wrong_with

PAGE = """\
# Title
```python
first = 1
```
1. In a list:
   ~~~yaml
   # kd.yaml
   device: cpu
   ~~~
<!-- no-run: needs a second machine -->
```bash
make demo
```
<!-- run-first
hidden = 2
-->
"""


def test_blocks_keep_their_language_text_line_and_reason() -> None:
    assert blocks_of(PAGE) == [
        Block("python", "first = 1\n", 3),
        Block("yaml", "# kd.yaml\ndevice: cpu\n", 7),
        Block("bash", "make demo\n", 12, "needs a second machine"),
        Block("python", "hidden = 2\n", 15),
    ]
    assert [block.file_name for block in blocks_of(PAGE)] == ["", "kd.yaml", "", ""]


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ("text\n```python\nx = 1\n", "line 2: nothing closes this block"),
        ("```\nx\n```\n", "line 1: the language '' is none of ('python', 'yaml', 'bash', 'text')"),
        ("```json\n{}\n```\n", "line 1: the language 'json' is none of ('python', 'yaml', 'bash', 'text')"),
        ("<!-- no-run: -->\n```bash\n```\n", "line 1: a no-run mark needs a reason, and a block on the next line"),
        ("<!-- no-run: why -->\n\n", "line 1: a no-run mark needs a reason, and a block on the next line"),
    ],
)
def test_a_page_that_breaks_the_rules_is_refused(page: str, message: str) -> None:
    with pytest.raises(ValueError) as error:
        blocks_of(page)
    assert str(error.value) == message


def test_commands_are_split_joined_and_cleaned() -> None:
    text = "git clone URL && cd kdhooks  # get it\n\nCI=1 kdhooks fit kd.yaml \\\n  --student 'a b'\n"
    assert commands_of(text) == [
        ["git", "clone", "URL"],
        ["cd", "kdhooks"],
        ["kdhooks", "fit", "kd.yaml", "--student", "a b"],
    ]


@pytest.mark.parametrize(
    ("command", "wrong"),
    [
        ("make demo", ""),
        ("make JOBS=4 test dmeo", "no make target 'dmeo'"),
        ("kdhooks fit kd.yaml --student=m:f", ""),
        ("kdhooks fit kd.yaml --pupil m:f", "fit has no option --pupil"),
        ("kdhooks train kd.yaml", "no subcommand 'train'"),
        ("kdhooks", "no subcommand ''"),
        ("kdhooks cache build kd.yaml --epochs 2", ""),
        ("kdhooks cache build kd.yaml --days 2", "cache build has no option --days"),
        ("kdhooks cache empty DIR", "no subcommand 'cache empty'"),
        ("python tests/docs/pages.py", ""),
        ("python -m pytest", ""),
        ("python nowhere.py", "no file 'nowhere.py'"),
        ("pip install -e '.[torch,report]'", ""),
        ("pip install 'kdhooks[torhc]'", "no extra 'torhc'"),
        ("rm -rf x", "no rule for the command 'rm': write one here, or call the block text"),
    ],
)
def test_a_documented_command_must_exist(command: str, wrong: str) -> None:
    help_of = {
        "fit": "usage: kdhooks fit [--student FACTORY] FILE",
        "cache": "usage: kdhooks cache VERB",
        "cache build": "usage: kdhooks cache build [--epochs N] FILE",
    }
    assert wrong_with(commands_of(command)[0], help_of) == wrong
