"""The command `gemoclap`: a trained model at work on files, from a shell.

Exit codes: 0 when all went well, 1 when some inputs failed, 2 on misuse. Data go to
standard output, everything else (progress, warnings, what libraries print) to standard
error, so that the command can stand in a pipe. Only this parser is loaded until the
arguments are known to be right, so that ``--help`` answers at once; what the commands do
stands in `gemoclap_sb.cli.commands`.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import math
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version

from gemoclap_sb.cli import commands
from gemoclap_sb.cli.inputs import CommandError

_PROGRAM = "gemoclap"
# As a shell reports a program that SIGPIPE or SIGINT ended.
_BROKEN_PIPE, _INTERRUPTED = 141, 130

_EXAMPLES = """\
examples:
  gemoclap classify speech.wav --model exported
  gemoclap classify recordings/ --model exported --format csv > emotions.csv
  gemoclap classify recordings/ --model exported --labels bored afraid calm
  gemoclap timeline meeting.flac --model exported --output meeting.png
  gemoclap embed recordings/ --model exported --output embeddings.npy
  gemoclap evaluate test.csv --model exported --data-root corpus/
  gemoclap export results/sl_wavlm/seed_1/fold_1 exported
  gemoclap info exported

`gemoclap COMMAND --help` says more. Data go to standard output, the rest to standard error.
Exit codes: 0 all went well, 1 some inputs failed, 2 misuse."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Parameters
    ----------
    arguments : Sequence[str], optional
        Without the program's name; by default the process's own.

    Returns
    -------
    int
        The exit code.

    Raises
    ------
    SystemExit
        By argparse: 0 after ``--help`` and ``--version``, 2 for arguments that are wrong.

    Examples
    --------
    >>> main(["info", "no/such/folder/anywhere"])
    2
    """
    options = build_parser().parse_args(arguments)
    out = sys.stdout
    if isinstance(out, io.TextIOWrapper):
        # File names need not be valid UTF-8; they leave as they came.
        out.reconfigure(encoding="utf-8", errors="surrogateescape")
    try:
        with contextlib.redirect_stdout(sys.stderr):
            status = options.run(options, out)
        out.flush()
        return status
    except CommandError as error:
        print(f"{_PROGRAM} {options.command}: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # The reader has seen enough (`| head`). Python would complain at its own exit,
        # when it flushes what is left: https://docs.python.org/3/library/signal.html
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())
        return _BROKEN_PIPE
    except KeyboardInterrupt:
        return _INTERRUPTED


def build_parser() -> argparse.ArgumentParser:
    """Make the parser of all commands.

    Returns
    -------
    argparse.ArgumentParser
        It leaves the function to call in ``run``.
    """
    parser = argparse.ArgumentParser(
        prog=_PROGRAM,
        description="Emotion in speech, recognised by words (GEmo-CLAP for SpeechBrain).",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--version", action="version", version=f"{_PROGRAM} {version('gemoclap_sb')}"
    )
    shared = _Shared()
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (_add_classify, _add_timeline, _add_embed, _add_evaluate, _add_export, _add_info):
        add(subparsers, shared)
    return parser


class _Shared:
    """Options that several commands take, each with one wording."""

    def __init__(self) -> None:
        self.model = argparse.ArgumentParser(add_help=False)
        self.model.add_argument(
            "--model",
            required=True,
            metavar="FOLDER",
            help="exported model: a folder, or owner/name on the Hugging Face hub",
        )
        self.model.add_argument(
            "--attribute",
            metavar="NAME",
            help="what to recognise, for a model with several heads (default: its first)",
        )
        self.model.add_argument(
            "--device", help="cpu, cuda:0, ... (default: a GPU where there is one)"
        )
        self.words = argparse.ArgumentParser(add_help=False)
        self.words.add_argument(
            "--labels",
            nargs="+",
            metavar="LABEL[=WORD]",
            help="classes to choose from, any words (default: the model's own). A label of the "
            "model stands for its word; LABEL=WORD gives a label its word",
        )
        self.words.add_argument(
            "--templates",
            nargs="+",
            metavar="SENTENCE",
            help="sentences with {} for the word (default: the model's); a class is their mean",
        )
        self.batches = argparse.ArgumentParser(add_help=False)
        self.batches.add_argument(
            "--batch-size",
            type=_batch_size,
            default="auto",
            metavar="N",
            help="files in a batch (default: auto, by length: 24 s on a CPU, 480 s on a GPU)",
        )


def _add_classify(subparsers: argparse._SubParsersAction, shared: _Shared) -> None:
    parser = subparsers.add_parser(
        "classify",
        parents=[shared.model, shared.words, shared.batches],
        help="the class of each recording",
        description="Classify recordings. A file that cannot be read has an error in place of a "
        "class, and the rest go on.",
        epilog="examples:\n"
        "  gemoclap classify a.wav b.flac --model exported\n"
        "  gemoclap classify recordings/ --model exported --format json | jq '.[].label'\n"
        "  gemoclap classify a.wav --model exported --labels bored afraid "
        '--templates "a {} voice"',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_inputs(parser)
    _add_format(parser, ("table", "csv", "json"))
    parser.set_defaults(run=commands.classify)


def _add_timeline(subparsers: argparse._SubParsersAction, shared: _Shared) -> None:
    parser = subparsers.add_parser(
        "timeline",
        parents=[shared.model, shared.words],
        help="classes over the length of a recording",
        description="Classify every window of a recording, which may be hours long: it is read "
        "piece by piece.",
        epilog="examples:\n"
        "  gemoclap timeline meeting.flac --model exported --output meeting.png\n"
        "  gemoclap timeline meeting.flac --model exported --window 3 --hop 1 --format csv",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", metavar="FILE", help="a recording of any length")
    parser.add_argument(
        "--window", type=_seconds, default=2.0, help="seconds in a window (default: 2)"
    )
    parser.add_argument(
        "--hop", type=_seconds, default=0.5, help="seconds between windows' beginnings (0.5)"
    )
    parser.add_argument("--output", metavar="PNG", help="picture to draw")
    _add_format(parser, ("table", "csv", "json"))
    parser.set_defaults(run=commands.timeline)


def _add_embed(subparsers: argparse._SubParsersAction, shared: _Shared) -> None:
    parser = subparsers.add_parser(
        "embed",
        parents=[shared.model, shared.batches],
        help="embeddings of recordings, into a file",
        description="Embed recordings: L2-normalised rows in the order of the files. X.npy comes "
        "with X.ids.csv, whose column ID says which file each row is of; a Parquet file has the "
        "columns ID and embedding. A file that cannot be read is left out.",
        epilog="example:\n  gemoclap embed recordings/ --model exported --output embeddings.npy",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_inputs(parser)
    parser.add_argument(
        "--output", required=True, metavar="FILE", help=".npy, or .parquet (needs pyarrow)"
    )
    parser.set_defaults(run=commands.embed)


def _add_evaluate(subparsers: argparse._SubParsersAction, shared: _Shared) -> None:
    parser = subparsers.add_parser(
        "evaluate",
        parents=[shared.model, shared.words, shared.batches],
        help="WAR, UAR and confusion on a corpus",
        description="Classify the utterances of a manifest (a CSV with the columns ID, wav and "
        "the attribute, such as emotion) and compare. With --labels the model is tested on other "
        "classes than it was trained on: they are the manifest's labels, each with its word.",
        epilog="examples:\n"
        "  gemoclap evaluate test.csv --model exported --data-root corpus/ --output results/\n"
        "  gemoclap evaluate test.csv --model exported --labels bor=bored afr=afraid ang",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("manifest", metavar="MANIFEST", help="CSV file")
    parser.add_argument(
        "--data-root", metavar="FOLDER", help="stands for $data_root in the manifest's paths"
    )
    parser.add_argument(
        "--ignore-others",
        action="store_true",
        help="leave out utterances of other labels (default: they are an error)",
    )
    parser.add_argument(
        "--output",
        metavar="FOLDER",
        help="where to write metrics.json, confusion.png and predictions.csv",
    )
    _add_format(parser, ("table", "json"))
    parser.set_defaults(run=commands.evaluate)


def _add_export(subparsers: argparse._SubParsersAction, shared: _Shared) -> None:
    parser = subparsers.add_parser(
        "export",
        help="a finished run as a folder that moves freely",
        description="Write a run's best model into a self-contained folder, which this command, "
        "GEmoCLAPClassifier and stock SpeechBrain load.",
        epilog="examples:\n"
        "  gemoclap export results/sl_wavlm/seed_1/fold_1 exported --license apache-2.0\n"
        "  gemoclap export results/sl_wavlm/seed_1/fold_1 exported --push-to-hub me/my-model",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run_folder", metavar="RUN", help="output folder of a run")
    parser.add_argument("out_folder", metavar="OUT", help="folder to write")
    parser.add_argument("--overwrite", action="store_true", help="replace an export in OUT")
    card = parser.add_argument_group("model card")
    card.add_argument("--name", help="the model's name (default: the folder's)")
    card.add_argument("--license", metavar="SPDX", help="such as apache-2.0")
    card.add_argument("--datasets", nargs="+", default=[], metavar="NAME", help="trained on")
    card.add_argument("--language", metavar="CODE", help="of the data, such as en")
    hub = parser.add_argument_group("Hugging Face hub")
    hub.add_argument("--push-to-hub", metavar="REPO", help="upload it as owner/name")
    hub.add_argument("--private", action="store_true", help="make a new repository private")
    parser.set_defaults(run=commands.export)


def _add_info(subparsers: argparse._SubParsersAction, shared: _Shared) -> None:
    parser = subparsers.add_parser(
        "info",
        help="what an exported model is",
        description="Print a model's labels, prompts, encoders, parameters, metrics and sizes. "
        "No weight is loaded, but the file of weights is checked.",
        epilog="example:\n  gemoclap info exported",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="FOLDER", help="exported folder, or owner/name of the hub")
    _add_format(parser, ("table", "json"))
    parser.set_defaults(run=commands.info)


def _add_inputs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="FILE_OR_FOLDER",
        help="recordings (give them before the options); folders are searched for audio files "
        "at all depths, hidden ones left out",
    )


def _add_format(parser: argparse.ArgumentParser, kinds: Sequence[str]) -> None:
    parser.add_argument(
        "--format", choices=kinds, default="table", help="of what is printed (default: table)"
    )


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"expected a positive number of seconds, found {text}")
    return seconds


def _batch_size(text: str) -> int | str:
    if text == "auto" or (text.isdecimal() and int(text) > 0):
        return text if text == "auto" else int(text)
    raise argparse.ArgumentTypeError(f"expected auto, or 1 and more, found {text}")
