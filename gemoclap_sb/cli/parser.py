"""The command `gemoclap`: a trained model at work on files, from a shell.

Exit codes: 0 when all went well, 1 when some inputs failed, 2 for a usage error or an output
that cannot be written. Data go to standard output, everything else (progress, warnings, what
libraries print) to standard error, so that the command can stand in a pipe. Only the parsers
are loaded until the arguments are known to be right, so that ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version

from gemoclap_sb.cli import classify, embed, evaluate, export, info, plot, timeline
from gemoclap_sb.cli.inputs import UsageError

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
  gemoclap export results/sl_wavlm/seed_*/fold_1 averaged
  gemoclap info exported
  gemoclap plot results/sl_wavlm/seed_1/fold_1

`gemoclap COMMAND --help` says more. Data go to standard output, the rest to standard error.
Exit codes: 0 all went well, 1 some inputs failed, 2 usage error, or no output can be written."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command, by default with the process's own arguments; returns the exit code.

    SystemExit by argparse: 0 after ``--help`` and ``--version``, 2 for arguments that are wrong.

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
    except UsageError as error:
        print(f"{_PROGRAM} {options.command}: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # The reader has seen enough (`| head`). Python would complain at its own exit,
        # when it flushes what is left: https://docs.python.org/3/library/signal.html
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())
        return _BROKEN_PIPE
    except OSError as error:
        # A result that cannot be written, mostly.
        print(f"{_PROGRAM} {options.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return _INTERRUPTED


def build_parser() -> argparse.ArgumentParser:
    """Make the parser of all commands; it leaves the function to call in ``run``."""
    parser = argparse.ArgumentParser(
        prog=_PROGRAM,
        description="Emotion in speech, recognised by words (GEmo-CLAP for SpeechBrain).",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--version", action="version", version=f"{_PROGRAM} {version('gemoclap_sb')}"
    )
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in (classify, timeline, embed, evaluate, export, info, plot):
        of_command = subparsers.add_parser(
            command.__name__.rpartition(".")[2],
            help=command.SUMMARY,
            description=command.DESCRIPTION,
            epilog=f"examples:\n{command.EXAMPLES}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(of_command)
        of_command.set_defaults(run=command.run)
    return parser
