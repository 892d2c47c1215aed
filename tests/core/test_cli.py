"""The command line where no model is needed: words, files, exit codes and whole messages."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kdhooks import DistillationConf, __version__
from kdhooks.cli import main
from kdhooks.cli.starter import ACTIVE, starter
from kdhooks.config import describe

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.usefixtures("registrations_end_with_the_test")
COMMANDS = ("demo", "init", "validate", "layers", "check", "fit", "report", "search")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test runs in a folder of its own, and leaves the module path as it was."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return tmp_path


def output(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command."""
    code = main(words)
    return (code, *capsys.readouterr())


@pytest.mark.parametrize("option", ["-v", "--version"])
def test_version(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([option])
    assert (caught.value.code, capsys.readouterr().out) == (0, f"kdhooks {__version__}\n")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: kdhooks {command} ")


def test_no_command_and_unknown_commands_are_mistakes(capsys: pytest.CaptureFixture[str]) -> None:
    for words, text in (
        ([], "kdhooks: error: the following arguments are required: COMMAND\n"),
        (["fi"], "kdhooks: error: argument COMMAND: invalid choice: 'fi' (choose from"),
    ):
        with pytest.raises(SystemExit) as caught:
            main(words)
        assert caught.value.code == 2
        assert text in capsys.readouterr().err


def test_a_shape_is_checked(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["layers", "models:small", "--shape", "1,a"])
    assert caught.value.code == 2
    assert capsys.readouterr().err.endswith(
        "kdhooks layers: error: argument --shape: expected whole numbers with commas, as in 1,3,32,32, not '1,a'\n"
    )


def test_init_writes_a_valid_file_and_replaces_none(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert output(capsys, "init") == (0, "wrote kd.yaml; kdhooks validate kd.yaml checks it after your changes\n", "")
    assert output(capsys, "validate", "kd.yaml") == (0, "kd.yaml: valid\n", "")
    written = (folder / "kd.yaml").read_text()
    (folder / "kd.yaml").write_text("mine")
    assert output(capsys, "init") == (2, "", "kdhooks init: kd.yaml is there already; --force replaces it\n")
    assert (folder / "kd.yaml").read_text() == "mine"
    assert main(["init", "--force"]) == 0
    assert (folder / "kd.yaml").read_text() == written
    assert main(["init", "other.yaml"]) == 0
    capsys.readouterr()
    code, out, err = output(capsys, "init", "no/such/folder.yaml")
    assert (code, out, err) == (2, "", "kdhooks init: no/such/folder.yaml: No such file or directory\n")


def test_the_starter_sets_what_it_says() -> None:
    Path("kd.yaml").write_text(starter())
    conf = DistillationConf("kd.yaml")
    for path, value in ACTIVE.items():
        assert conf[path] == value
    assert set(ACTIVE) <= {described.path for described in describe()}


def test_the_starter_explains_every_key() -> None:
    text = starter()
    for described in describe():
        if not described.path.startswith(("evaluation.accuracy.dataloader.", "auto_distillation.evaluation.")):
            assert f"# {described.doc}\n" in text


def test_a_commented_key_can_be_uncommented() -> None:
    """Each line by itself, with its section's lines above it."""
    lines = starter().splitlines()
    tried = 0
    for number, line in enumerate(lines):
        bare = line.lstrip()
        if not bare.startswith("# ") or "  # " not in bare or bare.startswith("#   "):
            continue
        key = bare[2:].split(":")[0]
        if key in ("epoch", "drop_last", "multi_metrics", "cores_per_instance"):
            continue  # other words for a key that is set
        if bare[2:].split("  #")[0].strip().endswith(":"):
            continue  # nothing to say without a value
        changed = [*lines[:number], line.replace("# ", "", 1), *lines[number + 1 :]]
        Path("kd.yaml").write_text("\n".join(changed))
        DistillationConf("kd.yaml")
        tried += 1
    assert tried > 15


def test_validate_says_everything_about_every_file(capsys: pytest.CaptureFixture[str]) -> None:
    Path("good.yaml").write_text("device: cpu\n")
    Path("bad.yaml").write_text("device: cpu\nmodel:\n  nam: x\ntuning:\n  random_seed: many\n")
    code, out, err = output(capsys, "validate", "bad.yaml", "good.yaml", "none.yaml")
    assert (code, out) == (2, "good.yaml: valid\n")
    assert err == (
        "bad.yaml:3:3: model.nam: unknown key\n"
        "  3 |   nam: x\n"
        "    |   ^^^\n"
        "  Did you mean 'name'?\n"
        "bad.yaml:5:16: tuning.random_seed: expected a whole number from 0 to 4294967295, got 'many'\n"
        "  5 |   random_seed: many\n"
        "    |                ^^^^\n"
        "none.yaml: cannot be read: No such file or directory\n"
    )


def test_names_of_ones_own_come_from_a_module(capsys: pytest.CaptureFixture[str]) -> None:
    Path("kd.yaml").write_text("distillation: {train: {dataloader: {dataset: my_own_pictures}}}\n")
    Path("my_own_names.py").write_text(
        "from kdhooks import register_dataset\nregister_dataset('my_own_pictures', lambda: None)\n"
    )
    assert output(capsys, "validate", "kd.yaml", "--import", "my_own_names") == (0, "kd.yaml: valid\n", "")
    assert output(capsys, "validate", "kd.yaml", "--import", "my_own_name") == (
        2,
        "",
        "kdhooks validate: there is no module 'my_own_name' in the present folder or among what is installed. "
        "Did you mean 'my_own_names'?\n",
    )


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    from kdhooks.errors import UsageError

    with pytest.raises(UsageError):
        main(["--debug", "layers", "models"])


def test_interrupts_and_bugs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from kdhooks.cli import actions

    def interrupted(arguments: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(actions, "validate", interrupted)
    assert output(capsys, "validate", "kd.yaml") == (130, "", "kdhooks: interrupted\n")

    def bug(arguments: object) -> int:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(actions, "validate", bug)
    with pytest.raises(ZeroDivisionError):
        main(["validate", "kd.yaml"])


def run(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {"PYTHONPATH": str(ROOT), "PATH": ""}
    command = [sys.executable, "-m", "kdhooks.cli", *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)


def test_as_a_process(folder: Path) -> None:
    done = run("validate", "none.yaml", folder=folder)
    assert (done.returncode, done.stdout, done.stderr) == (
        2,
        "",
        "none.yaml: cannot be read: No such file or directory\n",
    )
    done = run("init", folder=folder)
    assert (done.returncode, done.stderr) == (0, "")


def test_no_framework_is_loaded_for_a_file(folder: Path) -> None:
    code = (
        "import sys; from kdhooks.cli import main; main(['init']); main(['validate', 'kd.yaml']); "
        "print({'torch', 'tensorflow'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1] == "set()", done.stderr


def test_a_missing_framework_is_named_with_its_install_line(folder: Path) -> None:
    Path("models.py").write_text("import torch\n")
    code = (
        "import sys; sys.modules['torch'] = None\nfrom kdhooks.cli import main\n"
        "sys.exit(main(['layers', 'torch.nn:Identity']) + main(['demo']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr.splitlines() == [
        "kdhooks layers: a PyTorch model needs the package 'torch': pip install 'kdhooks[torch]'",
        "kdhooks demo: the demo needs the package 'torch': pip install 'kdhooks[torch]'",
    ]
