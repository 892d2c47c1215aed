"""All benchmarks, one after the other, each in a process of its own, and the page that shows them.

Figures are kept in ``benchmarks/figures``, a JSON file a part and a kind of processor, in the repository, so that one
part can be measured again and the page be written from all of them; with one part its own settings may follow. A
processor with matrix instructions has a page of its own, since bf16 is worth several times as much there. Other
libraries stand in an environment of their own, which `make bench` builds.

Run: make bench, which is python -m benchmarks [--only NAME ...] [--reuse] [--quick] [--threads 2]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.goals import Goal, table
from benchmarks.machine import features, kind_of, processor
from benchmarks.parts import Part, parts

ROOT = Path(__file__).resolve().parents[1]
STORE = ROOT / "benchmarks" / "figures"
QUICK = ROOT / ".kdhooks" / "benchmarks" / "quick"
PAGES = {
    kind: ROOT / "docs" / f"benchmarks{end}.md"
    for kind, end in (("amx", ""), ("avx512", "_avx512"), ("plain", "_plain"))
}

TOLD = {
    "amx": "a processor with AMX",
    "avx512": "a processor with AVX-512 but no AMX",
    "plain": "a processor without AVX-512",
}

TOP = """# Benchmarks

Ratios, not absolute times, since machines differ and are noisy: the sides run in turn in one run, swapping the order
from round to round. Times are medians over the rounds, a ratio is the median of the rounds' own ratios.

Command: {command}. Machine: {processor}, {threads} threads.{beside}

{environments}

A part alone is measured again with `make bench BENCH='--only NAME'`; the commands were:

```text
{commands}
```

## What is aimed for

{goals}

{sections}
"""


def interpreter(environment: str, options: argparse.Namespace) -> Path:
    """The Python that runs a part.

    Raises:
        SystemExit: its environment is not there.
    """
    if environment == "main":
        return Path(sys.executable)
    found: Path = getattr(options, environment)
    if not found.exists():
        target = {"peers": "make bench", "ipex": "make test-ipex"}[environment]
        raise SystemExit(f"{found} is not there: `{target}` builds that environment, which needs a package registry")
    return found


def measure(part: Part, options: argparse.Namespace, store: Path) -> None:
    """Run a part in a process of its own; its figures and its environment's versions go to a folder."""
    python = str(interpreter(part.environment, options))
    shared = {"cwd": ROOT, "env": os.environ | {"OMP_NUM_THREADS": str(options.threads), "PYTHONPATH": str(ROOT)}}
    versions = subprocess.run([python, "-m", "benchmarks.machine"], check=True, capture_output=True, **shared)
    command = [python, "-m", f"benchmarks.{part.name}", "--threads", str(options.threads)]
    file, began = store / f"{part.name}.json", time.perf_counter()
    print(f"== {part.name}", flush=True)
    command += [*(part.quick if options.quick else ()), *options.more]
    subprocess.run([*command, "--json", str(file)], check=True, **shared)
    told = {"versions": json.loads(versions.stdout), "minutes": (time.perf_counter() - began) / 60}
    told |= {"command": " ".join(["python", *command[1:]]), "features": features()}
    (store / f"{part.name}.environment.json").write_text(
        json.dumps({**told, "environment": part.environment, "threads": options.threads, "processor": processor()})
    )
    print(f"== {part.name}: {told['minutes']:.1f} minutes", flush=True)


def kept(part: Part, store: Path) -> dict[str, Any] | None:
    """A part's last figures; those of which nothing tells how they came about don't count."""
    file = store / f"{part.name}.json"
    known = file.is_file() and file.with_suffix(".environment.json").is_file()
    return json.loads(file.read_text()) if known else None


def page(chosen: list[Part], threads: int, store: Path) -> tuple[str, list[Goal]]:
    """The page, and its goals."""
    goals: list[Goal] = []
    sections, environments, commands, machines = [], {}, [], {}
    for part in chosen:
        found = kept(part, store)
        if found is None:
            sections.append(f"<!-- {part.name} was not measured -->")
            continue
        module = part.module()
        sections.append(module.section(found))
        goals += module.goals(found) if hasattr(module, "goals") else []
        ran = json.loads((store / f"{part.name}.environment.json").read_text())
        environments[part.environment] = ran["versions"]
        machines[f"{ran['processor']} ({ran['features']})" if ran["features"] else ran["processor"]] = None
        commands.append(f"{ran['command']}  # {ran['minutes']:.1f} minutes")
    titles = {"peers": "Beside other libraries", "main": "TensorFlow", "ipex": "Intel's extension"}
    told = [
        f"- {titles[name]}: {', '.join(f'{package} {number}' for package, number in versions.items())}."
        for name, versions in environments.items()
    ]
    text = TOP.format(
        command="`make bench`",
        processor=", or ".join(machines),
        threads=threads,
        beside=beside(store),
        environments="\n".join(told),
        commands="\n".join(commands),
        goals=table(goals),
        sections="\n\n".join(sections),
    )
    return text, goals


def beside(store: Path) -> str:
    """Links to the pages of other kinds of processors."""
    others = [kind for kind in PAGES if kind != store.name and any((store.parent / kind).glob("*.json"))]
    links = [f"[{TOLD[kind]}]({PAGES[kind].name})" for kind in others]
    return f"\nThe same on {' and on '.join(links)}." if links else ""


def lacking(chosen: list[Part], store: Path) -> list[str]:
    """Sides that were left out because their package is not there."""
    figures = {part.name: kept(part, store) or {} for part in chosen}
    return [f"{name} lacks {', '.join(found['missing'])}" for name, found in figures.items() if found.get("missing")]


def main() -> int:
    """Measure, and write docs/benchmarks.md; the exit status is 1 where a part failed or a side was missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [part.name for part in parts()]
    parser.add_argument("--threads", type=int, default=2)
    told = f"{', '.join(names)}; all without it, ipex where its environment is"
    parser.add_argument("--only", nargs="+", choices=names, default=[], metavar="NAME", help=told)
    parser.add_argument("--reuse", action="store_true", help="write the page from the last figures")
    parser.add_argument("--quick", action="store_true", help="only try the programs: tiny settings, another page")
    parser.add_argument("--page", type=Path, help="the page that is written; that of this kind of processor without it")
    parser.add_argument("--of", choices=list(PAGES), help="with --reuse: figures of another kind of processor")
    for name in ("peers", "ipex"):
        default = ROOT / f".venv-{name}" / "bin" / "python"
        parser.add_argument(f"--{name}", type=Path, default=default, help=f"the Python of the environment {name}")
    options, options.more = parser.parse_known_args()
    if options.more and len(options.only) != 1:
        parser.error(f"{' '.join(options.more)}: settings of a part go with --only and its name alone")
    kind = (options.reuse and options.of) or kind_of(features())
    store = QUICK if options.quick else STORE / kind
    store.mkdir(parents=True, exist_ok=True)
    chosen = [part for part in parts() if part.name in options.only or not options.only]
    if not options.only and not options.ipex.exists():
        chosen = [part for part in chosen if part.environment != "ipex"]
    failed = []
    for part in [] if options.reuse else chosen:
        try:
            measure(part, options, store)
        except (subprocess.CalledProcessError, SystemExit) as problem:
            failed.append(f"{part.name}: {problem}")
    text, goals = page(parts(), options.threads, store)
    (options.page or (store / "page.md" if options.quick else PAGES[kind])).write_text(text)
    for goal in goals:
        print("reached    " if goal.reached else "NOT REACHED", f"{goal.what}: {goal.value:.3g} ({goal.bound:g})")
    problems = failed + lacking(chosen, store)
    print("\n".join(problems), file=sys.stderr)
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
