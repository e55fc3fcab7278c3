"""One folder a run: the recipe that it belongs to, where it ran, and what it logged.

recipe.yaml (every setting), environment.jsonl (a line each start), log.jsonl, events.* (TensorBoard),
pictures/, checkpoint.pt, NAME.safetensors with NAME.json, and NAME_best.* where the recipe has a `val`.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
import yaml

from fassst_ros import __version__
from fassst_ros.bench.measure import machine_facts
from fassst_ros.config import load_yaml
from fassst_ros.training.distributed import Group
from fassst_ros.training.options import Recipe, build_recipe
from fassst_ros.training.recipes import as_mapping, differences
from fassst_ros.types import ConfigError

RECIPE, ENVIRONMENT, LOG, CHECKPOINT = "recipe.yaml", "environment.jsonl", "log.jsonl", "checkpoint.pt"


def make_folder(run: Path) -> None:
    """Raises ConfigError if no file can be written there."""
    try:
        run.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=run):
            pass
    except OSError as err:
        raise ConfigError(
            f"cannot write the run folder {run}: {err.strerror or err}. Name another one with --run-folder"
        ) from err


def check_recipe(run: Path, recipe: Recipe, changed: bool) -> None:
    """Raises ConfigError, naming what differs, if the folder's run was begun with another recipe.

    changed: the user knows, and wants to go on with the new one.
    """
    path = run / RECIPE
    if changed or not path.is_file() or not (run / CHECKPOINT).is_file():
        return
    before = as_mapping(build_recipe(load_yaml(path), str(path)))
    found = list(differences(before, as_mapping(recipe)))
    if found:
        raise ConfigError(
            f"{run} holds a run of another recipe: {'; '.join(found[:8])}. Take another folder (--run), or "
            "go on with the new recipe (--changed-recipe)"
        )


def open_folder(run: Path, recipe: Recipe, group: Group, done: int) -> None:
    """Write recipe and environment, and drop what a killed run logged after its last checkpoint."""
    text = yaml.safe_dump(as_mapping(recipe), sort_keys=False, allow_unicode=True)
    (run / RECIPE).write_text(
        f"# Every setting of this run, as `fassst train` read it.\n{text}", encoding="utf-8"
    )
    with (run / ENVIRONMENT).open("a", encoding="utf-8") as file:
        file.write(json.dumps(environment(group, done)) + "\n")
    log = run / LOG
    if log.is_file():
        lines = log.read_text(encoding="utf-8").splitlines()
        kept = [line for line in lines if _step(line) <= done]
        log.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")


def _step(line: str) -> float:
    """Of a line of the log; beyond any for what a kill left half written."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


def environment(group: Group, done: int) -> dict[str, Any]:
    """When, how and with what a run was started."""
    gpu = torch.cuda.get_device_name(group.device) if group.device.type == "cuda" else ""
    return {
        "date": datetime.now().astimezone().isoformat(" ", "seconds"),
        "command": shlex.join(sys.argv),
        "from_step": done,
        "fassst_ros": __version__,
        "commit": git_commit(),
        "torch": torch.__version__,
        "device": gpu or group.device.type,
        "processes": group.size,
        "threads": torch.get_num_threads(),
        **machine_facts(),
    }


def git_commit() -> str:
    """Commit of the code that runs, with "+" if it was changed since; "" where there is no git."""
    folder = Path(__file__).parent
    try:
        texts = [
            subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.strip()
            for command in (
                ["git", "rev-parse", "--short=12", "HEAD"],
                ["git", "status", "--porcelain", "--untracked-files=no", "--", "."],
            )
        ]
    except (OSError, subprocess.CalledProcessError):
        return ""
    return texts[0] + ("+" if texts[1] else "")
