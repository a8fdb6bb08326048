"""A wrong option of a script is told of in one line."""

import sys

import pytest

from gemoclap_sb.data.arguments import OneLineParser
from gemoclap_sb.data.corpora import iemocap, nemo, ravdess


def parse(*arguments: str) -> None:
    parser = OneLineParser(prog="prepare.py")
    parser.add_argument("--fold", type=int, required=True)
    parser.parse_args(arguments)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "the following arguments are required: --fold"),
        (["--fold", "x"], "argument --fold: invalid int value: 'x'"),
        (["--fold", "1", "--f\x1b[31m\noo"], "unrecognized arguments: --f\\x1b[31m\\noo"),
    ],
)
def test_a_wrong_option_is_one_line(arguments, said, capsys):
    with pytest.raises(SystemExit) as ended:
        parse(*arguments)
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"prepare.py: {said}. `prepare.py --help` says more.\n"


@pytest.mark.parametrize("corpus", [iemocap, nemo, ravdess])
def test_preparations_tell_of_wrong_options_in_one_line(corpus, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["prepare.py", "there", "here", "--fold", "first"])
    with pytest.raises(SystemExit):
        corpus.main()
    (line,) = capsys.readouterr().err.splitlines()
    assert "--fold" in line and "'first'" in line
