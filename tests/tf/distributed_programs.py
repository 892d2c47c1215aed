"""Runs the programs beside the tests: on several processes, with a limit of time, and reads the JSON they print."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

LIMIT = 550.0
"""Seconds after which a program is ended."""


def run(*modules: str) -> list[Any]:
    """What each module printed on standard output; all run at once."""
    return results([start(module) for module in modules])


def run_workers(module: str, count: int) -> list[Any]:
    """What each worker of a cluster printed, and last what one device alone did."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    addresses = [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
    for one in sockets:
        one.close()
    tasks = [{"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}} for index in range(count)]
    return results([start(module, TF_CONFIG=json.dumps(task)) for task in tasks] + [start(module)])


def start(module: str, **environment: str) -> subprocess.Popen[str]:
    """A program of its own, with one thread and without a GPU."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS"), "1")
    inherited = {name: value for name, value in os.environ.items() if name != "TF_CONFIG"}
    return subprocess.Popen(
        [sys.executable, "-m", module],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**inherited, **threads, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "2", **environment},
    )


def results(programs: list[subprocess.Popen[str]]) -> list[Any]:
    """The JSON that each printed; all are ended where one fails or takes too long."""
    end = time.monotonic() + LIMIT
    found = []
    try:
        for program in programs:
            printed, told = program.communicate(timeout=max(1.0, end - time.monotonic()))
            assert program.returncode == 0, told[-4000:]
            found.append(json.loads(printed))
    finally:
        for program in programs:
            if program.poll() is None:
                program.kill()
            program.communicate()
    return found
