"""What holds for the repository as a whole: what it says of itself, what it imports, what it must not contain."""

from __future__ import annotations

import ast
import inspect
import pkgutil
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import kdhooks

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
LONGEST_FILE, LONGEST_README, IMPORT_SECONDS = 350, 120, 0.3

# Rooms that may load a framework; every other module of kdhooks is the core.
FRAMEWORK_ROOMS = ("kdhooks.torch", "kdhooks.demo", "kdhooks.integrations", "kdhooks.training", "kdhooks.transferrable")


def files() -> list[Path]:
    """The files that git tracks, or would: none of what .gitignore names."""
    listing = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    found = sorted({ROOT / name for name in listing.split("\0") if name})
    return [file for file in found if file.is_file()]


def texts() -> dict[str, str]:
    """Every text file but pictures, by its path in the repository."""
    pictures = {".png", ".jpg", ".gif", ".npz"}
    return {
        str(file.relative_to(ROOT)): file.read_text(encoding="utf-8") for file in files() if file.suffix not in pictures
    }


def run_python(code: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def core_modules() -> list[str]:
    """The names of all modules of the core, found without importing them."""
    found, packages = ["kdhooks"], [("kdhooks", [str(ROOT / "kdhooks")])]
    while packages:
        package, path = packages.pop()
        for module in pkgutil.iter_modules(path, f"{package}."):
            if module.name.startswith(FRAMEWORK_ROOMS) or module.name.endswith("__main__"):
                continue
            found.append(module.name)
            if module.ispkg:
                packages.append((module.name, [f"{path[0]}/{module.name.rsplit('.', 1)[-1]}"]))
    return sorted(found)


def test_no_file_knows_a_machine_or_a_registry() -> None:
    # Assembled from pieces, so that this file does not hold what it looks for.
    places = r"(?<![\w./-])/(?:" + "|".join(("work", "root", "home", "opt", "mnt", "Users")) + r")/\w"
    sources = "|".join(("--find" + "-links", "--(?:extra-)?index" + "-url", "file:" + "///", "pypi" + r"\.org"))
    forbidden = re.compile(f"{places}|{sources}")
    found = [
        f"{name}:{number}: {line.strip()}"
        for name, text in texts().items()
        for number, line in enumerate(text.splitlines(), 1)
        if forbidden.search(line)
    ]
    assert found == []


def test_no_python_file_is_long_or_named_for_nothing() -> None:
    python = {name: text for name, text in texts().items() if name.endswith(".py")}
    assert {name: len(text.splitlines()) for name, text in python.items() if text.count("\n") > LONGEST_FILE} == {}
    nothing = {"utils", "util", "helpers", "helper", "common", "misc", "manager"}
    assert [name for name in python if nothing & set(re.split(r"[/_.]", name))] == []


def test_readme_fits_a_screen_or_two() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < LONGEST_README


def test_import_loads_no_framework_and_is_quick() -> None:
    code = (
        "import sys, time; begin = time.perf_counter(); import kdhooks; seconds = time.perf_counter() - begin; "
        "print(seconds, *sorted({'torch', 'tensorflow', 'keras', 'jax'} & set(sys.modules)))"
    )
    runs = [run_python(code).split() for _ in range(5)]
    assert {tuple(frameworks) for _, *frameworks in runs} == {()}
    # The best of five: how long it takes, and not what else the machine was doing.
    assert min(float(seconds) for seconds, *_ in runs) < IMPORT_SECONDS


def test_no_module_of_the_core_loads_a_framework() -> None:
    names = core_modules()
    assert "kdhooks.errors" in names and "kdhooks.config.model" in names
    code = (
        f"import importlib, sys\nfor name in {names!r}:\n    importlib.import_module(name)\n"
        "    loaded = {'torch', 'tensorflow', 'keras'} & set(sys.modules)\n"
        "    if loaded:\n        sys.exit(f'{name} loads {loaded}')\n"
    )
    assert run_python(code) == ""


def test_the_import_rules_name_every_room() -> None:
    rules = (ROOT / ".importlinter").read_text(encoding="utf-8")
    rooms = {name.split(".")[1] for name in core_modules() if "." in name}
    layers = re.search(r"^layers =\n(.*?)^exhaustive = True", rules, re.MULTILINE | re.DOTALL)
    sources = re.search(r"^source_modules =\n(.*?)^forbidden_modules", rules, re.MULTILINE | re.DOTALL)
    assert layers is not None and sources is not None
    assert set(re.findall(r"\w+", layers.group(1))) == rooms | {name.split(".")[1] for name in FRAMEWORK_ROOMS}
    assert set(re.findall(r"kdhooks\.(\w+)", sources.group(1))) == rooms


def test_public_names_load_and_are_documented() -> None:
    pages = "".join(text for name, text in texts().items() if name == "README.md" or name.startswith("docs/"))
    public = [name for name in kdhooks.__all__ if name != "__version__"]
    assert public
    undocumented = [name for name in public if not inspect.getdoc(getattr(kdhooks, name))]
    unmentioned = [name for name in public if not re.search(rf"\b{name}\b", pages)]
    assert (undocumented, unmentioned) == ([], [])
    assert sorted(set(kdhooks.__all__)) == sorted(kdhooks.__all__)
    assert set(kdhooks.__all__) <= set(dir(kdhooks))


def test_public_methods_are_documented() -> None:
    classes = [value for name in kdhooks.__all__ if inspect.isclass(value := getattr(kdhooks, name))]
    methods = [
        f"{owner.__name__}.{name}"
        for owner in classes
        for name, member in vars(owner).items()
        if not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, property))
        if not inspect.getdoc(member)
    ]
    assert methods == []


def test_an_unknown_public_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="Distilation"):
        _ = kdhooks.Distilation  # type: ignore[attr-defined]


def test_versions_agree() -> None:
    stated = re.search(r'^version = "([^"]+)"$', PYPROJECT, re.MULTILINE)
    assert stated is not None
    assert kdhooks.__version__ == stated.group(1)
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## \[{re.escape(stated.group(1))}\]", changelog, re.MULTILINE)


def optional_dependencies() -> dict[str, str]:
    """Every extra's list, as pyproject.toml writes it."""
    table = PYPROJECT.split("[project.optional-dependencies]\n")[1].split("\n[project.scripts]")[0]
    return dict(re.findall(r"^(\w+) = \[(.*?)\](?:\s|$)(?=\s*#|\s*\w+ = |\s*$)", table, re.MULTILINE | re.DOTALL))


def test_all_is_what_can_live_in_one_environment() -> None:
    extras = optional_dependencies()
    named = re.search(r"kdhooks\[([\w,]+)\]", extras["all"])
    assert named is not None
    assert set(named.group(1).split(",")) == set(extras) - {"all", "dev", "ipex"}


def test_every_missing_package_message_names_an_extra_that_brings_the_package() -> None:
    extras, seen = optional_dependencies(), []
    for name, text in texts().items():
        if not name.startswith("kdhooks/") or not name.endswith(".py"):
            continue
        for call in ast.walk(ast.parse(text)):
            if not (isinstance(call, ast.Call) and getattr(call.func, "id", "") == "MissingPackageError"):
                continue
            given = [argument.value if isinstance(argument, ast.Constant) else None for argument in call.args]
            given += [keyword.value.value for keyword in call.keywords if isinstance(keyword.value, ast.Constant)]
            if len(given) == 3 and isinstance(given[0], str):
                seen.append((name, given[0], given[2]))
    wrong = [(name, package, extra) for name, package, extra in seen if package not in extras.get(str(extra), "")]
    assert wrong == []


def test_everything_that_make_installs_is_pinned_once_for_a_python() -> None:
    pins = re.findall(r"^([\w.-]+)==[\w.]+(?:; (.*))?$", (ROOT / "constraints.txt").read_text("utf-8"), re.MULTILINE)
    lines = [line for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines() if not line.startswith("#")]
    assert len(pins) == len(lines) == len(set(pins))
    pinned = {re.sub(r"[_.]", "-", name.lower()) for name, _ in pins}
    extras = optional_dependencies()
    core = PYPROJECT.split("\ndependencies = [")[1].split("\n]")[0]
    wanted = re.findall(r'"([\w-]+)', core + extras["torch"] + extras["report"] + extras["accelerate"] + extras["dev"])
    assert {re.sub(r"[_.]", "-", name.lower()) for name in wanted} - {"kdhooks"} - pinned == set()


def test_both_packages_ship_their_types() -> None:
    for package in ("kdhooks", "kdhooks_tf"):
        assert (ROOT / package / "py.typed").is_file()
        assert f'{package} = ["py.typed"]' in PYPROJECT


def test_continuous_integration_can_be_started() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & stat.S_IXUSR
    assert "make check" in script.read_text(encoding="utf-8")


def test_every_make_target_says_what_it_does() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert phony is not None
    assert set(phony.group(1).split()) == set(re.findall(r"^([a-z-]+):.* ## \S", makefile, re.MULTILINE))
