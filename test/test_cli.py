"""The `fassst` command as users run it: its own process, its exit status and what it prints."""

from __future__ import annotations

import argparse
import subprocess
import sys

import pytest

from fassst_ros import __version__
from fassst_ros.cli import COMMANDS, add_settings, main, read_settings
from fassst_ros.config import RuntimeOptions, SegmentOptions
from fassst_ros.types import ConfigError


def fassst(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own."""
    command = [sys.executable, "-m", "fassst_ros.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_help_names_every_command() -> None:
    done = fassst("--help")
    assert done.returncode == 0
    for name, (_, summary) in COMMANDS.items():
        assert name in done.stdout
        assert summary.split()[0] in done.stdout


def test_version() -> None:
    assert fassst("--version").stdout.strip() == f"fassst_ros {__version__}"


@pytest.mark.parametrize(
    "arguments", [[], ["juggle"], ["predict"], ["predict", "a.jpg", "--threads", "many"]]
)
def test_wrong_usage_has_status_2(arguments: list[str]) -> None:
    done = fassst(*arguments)
    assert done.returncode == 2
    assert "usage: fassst" in done.stderr


def test_errors_are_one_line_without_traceback() -> None:
    done = fassst("predict", "a.jpg", "--model", "absent.onnx", "--no-pictures", "--json", "/dev/null/x.json")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("fassst predict: cannot write to /dev/null")


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom fassst_ros.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "bad = {'cv2', 'torch', 'openvino', 'onnxruntime', 'rclpy'} & set(sys.modules)\n"
        "sys.exit(f'imported: {bad}' if bad else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_every_command_exists_and_has_the_interface(capsys: pytest.CaptureFixture[str]) -> None:
    for name in COMMANDS:
        with pytest.raises(SystemExit) as ended:
            main([name, "--help"])
        assert ended.value.code == 0, name
        assert f"usage: fassst {name}" in capsys.readouterr().out


def parse(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_settings(parser, RuntimeOptions, "runtime", skip=("model",))
    add_settings(parser, SegmentOptions, "options")
    return parser.parse_args(arguments)


def test_settings_become_options_with_the_same_defaults() -> None:
    args = parse()
    assert read_settings(args, RuntimeOptions) == RuntimeOptions()
    assert read_settings(args, SegmentOptions) == SegmentOptions()
    args = parse(
        "--classes", "person, car", "--score-threshold", "0.25", "--max-instances", "7", "--threads", "2"
    )
    assert read_settings(args, SegmentOptions) == SegmentOptions(0.25, -1.0, 7, ("person", "car"))
    assert read_settings(args, RuntimeOptions) == RuntimeOptions(threads=2)
    with pytest.raises(SystemExit):
        parse("--model", "x")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--score-threshold", "2"], r"score_threshold = 2.0; expected a value in \[-1.0, 1.0\]"),
        (["--score-threshold", "nan"], "a finite number"),
        (["--max-instances", "0"], "max_instances = 0"),
    ],
)
def test_values_are_checked_as_everywhere(arguments: list[str], problem: str) -> None:
    with pytest.raises(ConfigError, match=f"command line: {problem}|{problem}"):
        read_settings(parse(*arguments), SegmentOptions)


def test_unknown_runtime_is_named() -> None:
    with pytest.raises(ConfigError, match="runtime = 'cuda'; expected one of auto"):
        read_settings(parse("--runtime", "cuda"), RuntimeOptions)
