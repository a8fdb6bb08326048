"""What a command line says reaches the experiment as it was typed, or is refused in one line."""

from __future__ import annotations

import pytest
import torch

from gemoclap_sb.training.command_line import checked_run_options, parse_arguments
from gemoclap_sb.training.settings import ExperimentError

FILE = "x.yaml"


@pytest.mark.parametrize(
    "value",
    [
        "/a=b",
        "run #1",
        "2024-01-01",
        "007",
        "a: b",
        "[x]",
        'say "no"',
        "Żółć 😀",
        "*",
        "no",
        "a\\b",
    ],
)
@pytest.mark.parametrize("style", ["apart", "joined"])
def test_names_and_paths_are_taken_as_typed(value, style):
    option = ["--output_folder", value] if style == "apart" else [f"--output_folder={value}"]
    assert parse_arguments([FILE, *option, "--seed", "2"])[2] == {
        "output_folder": value,
        "seed": 2,
    }


def test_null_and_yaml_stay_yaml():
    given = parse_arguments(
        [FILE, "--words", "null", "--run_folder", "!ref <a>/b", "--experiment", '"x"']
    )[2]
    assert given["words"] is None and given["experiment"] == "x"
    assert given["run_folder"].value == "<a>/b"


def test_speechbrains_options_and_keys_of_the_yaml():
    path, run_opts, given = parse_arguments(
        [FILE, "--device", "cpu", "--lr", "1e-4", "--classes", "[a, b]", "--debug", "--seed=-1"]
    )
    assert (path, run_opts.device, run_opts.debug) == (FILE, "cpu", True)
    assert given == {"lr": 1e-4, "classes": ["a", "b"], "seed": -1}
    assert parse_arguments([FILE, "--optimizer_step_limit", "7"])[1].optimizer_step_limit == 7


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--device", "xyz"], "--device: expected cpu, cuda or cuda:N, found 'xyz'"),
        (["--device", "meta"], "--device meta: torch finds none"),
        (["--device", ""], "--device: expected"),
        (["--device"], "expected one argument"),
        (["--precision", "foo"], "--precision: invalid choice: 'foo'"),
        (["--device", "cpu", "--precision", "fp16"], "--precision fp16 needs a GPU"),
        (["--nonfinite_patience", "x"], "--nonfinite_patience: invalid int value"),
        (["--nonfinite_patience", "-2"], "--nonfinite_patience: expected a whole number, 0"),
        (["--grad_accumulation_factor", "0"], "--grad_accumulation_factor: expected"),
        (["--max_grad_norm", "nan"], "--max_grad_norm: expected"),
        (["--optimizer_step_limit", "x"], "--optimizer_step_limit: expected"),
        (["--ckpt_interval_minutes", "1", "--ckpt_interval_steps", "2"], "not both"),
        (["--devic", "cpu"], "--devic: write the option out: --device"),
        (["--emotion_templates", "[a=b {}]"], "takes an = in a value apart"),
        (["--seed", "1", "--seed", "2"], "each key once"),
        (["--seed", "[1"], "expected --key value"),
        (["--classes"], "--classes: expected a value after it, found none"),
        (
            ["--resume"],
            "--resume: no option of SpeechBrain's, and as a key of the YAML: expected a",
        ),
        (["--classes", "--seed", "1"], "--classes: expected a value after it, found none"),
        (["extra"], "expected --key value"),
        (["--", "--seed", "1"], "write the option out"),
    ],
)
def test_what_cannot_be_is_one_line(options, said, capsys):
    with pytest.raises(ExperimentError) as raised:
        parse_arguments([FILE, *options])
    assert said in str(raised.value) and "\n" not in str(raised.value)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    "argv", [[], ["--debug"], ["--device", "cpu"], ["--seed", "1"], ["--seed", "1", FILE]]
)
def test_a_yaml_that_does_not_come_first(argv):
    with pytest.raises(ExperimentError, match="^expected the YAML.* hparams/FILE.yaml .*none.$"):
        parse_arguments(argv)


def test_options_may_come_before_the_yaml():
    path, run_opts, given = parse_arguments(["--debug", "--device", "cpu", "--seed=3", FILE])
    assert (path, run_opts.debug, given) == (FILE, True, {"seed": 3})


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_no_gpu():
    with pytest.raises(ExperimentError, match="--device cuda: torch finds none.*--device cpu"):
        parse_arguments([FILE, "--device", "cuda"])


def test_options_that_stand_in_the_yaml_are_looked_at_too():
    _, run_opts, _ = parse_arguments([FILE])
    with pytest.raises(ExperimentError, match="--precision: expected one of"):
        checked_run_options(run_opts, {"precision": "foo"})
    _, run_opts, _ = parse_arguments([FILE, "--precision", "fp32"])
    checked_run_options(run_opts, {"precision": "foo"})


def test_help_lists_speechbrains_options(capsys):
    with pytest.raises(SystemExit) as raised:
        parse_arguments(["--help"])
    printed = capsys.readouterr().out
    assert raised.value.code == 0 and "--precision" in printed
    assert "hparams/FILE.yaml [--key value ...]" in printed.splitlines()[0]
