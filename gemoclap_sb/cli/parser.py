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
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from types import FrameType
from typing import NoReturn, TextIO

from gemoclap_sb.cli import (
    agreement,
    classify,
    cluster,
    embed,
    evaluate,
    export,
    info,
    plot,
    search,
    timeline,
)
from gemoclap_sb.cli.destinations import check_stream, writing
from gemoclap_sb.cli.errors import UsageError
from gemoclap_sb.cli.terminal import Screen, say
from gemoclap_sb.data.arguments import OneLineParser

_PROGRAM = "gemoclap"
_COMMANDS = (
    classify, timeline, embed, cluster, agreement, search, evaluate, export, info, plot,
)  # fmt: skip
# As a shell reports a program that a signal ended.
_BROKEN_PIPE, _INTERRUPTED = 141, 130
_SIGNALS = (signal.SIGINT, signal.SIGTERM)

_EXAMPLES = """\
examples:
  gemoclap classify speech.wav --model exported
  gemoclap classify recordings/ --model exported --format csv > emotions.csv
  gemoclap classify recordings/ --model exported --labels bored afraid calm
  gemoclap timeline meeting.flac --model exported --output meeting.png
  gemoclap embed recordings/ --model exported --output embeddings.npy
  gemoclap cluster corpus.csv --embeddings embeddings/ --output clusters/
  gemoclap search "this person sounds angry" embeddings.npy --model exported
  gemoclap evaluate test.csv --model exported --data-root corpus/
  gemoclap export results/sl_wavlm/seed_1/fold_1 exported
  gemoclap export results/sl_wavlm/seed_*/fold_1 averaged
  gemoclap info exported
  gemoclap plot results/sl_wavlm/seed_1/fold_1
  gemoclap agreement clusters/ --manifest corpus.csv --output agreement/

`gemoclap COMMAND --help` says more. Data go to standard output, the rest to standard error.
Exit codes: 0 all went well, 1 some inputs failed, 2 usage error, or no output can be written."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command, by default with the process's own arguments; returns the exit code.

    SystemExit by argparse: 0 after ``--help`` and ``--version``, 2 for arguments that are wrong.
    A process that SIGINT or SIGTERM stops ends here, and waits for none of its threads.

    Examples
    --------
    >>> main(["info", "no/such/folder/anywhere"])
    2
    """
    with _streams() as out, _stopped_by_signals():
        try:
            return _run(arguments, out)
        except (_Stopped, KeyboardInterrupt) as stopped:
            status = getattr(stopped, "status", _INTERRUPTED)
            if arguments is None:
                # Here, since what the error still holds may wait for threads when it goes.
                os._exit(status)
            return status


def _run(arguments: Sequence[str] | None, out: TextIO | None) -> int:
    try:
        options = build_parser().parse_args(arguments)
    except SystemExit as ended:
        try:
            if not ended.code:
                # argparse does not say that --help could not be printed.
                check_stream(out)
                with writing("standard output"), contextlib.suppress(BrokenPipeError):
                    out.flush()
        except UsageError as error:
            say(f"{_PROGRAM}: {error}")
            ended = SystemExit(2)
        _forget(out)
        raise ended from None
    command = f"{_PROGRAM} {options.command}"
    try:
        if options.prints:
            check_stream(out)
        with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
            # In a line, without the place in somebody's source.
            warnings.showwarning = lambda message, *_, **__: say(f"note: {message}")
            status = options.run(options, out)
        if out is not None:
            with writing("standard output"):
                out.flush()
        return status
    except UsageError as error:
        say(f"{command}: {error}")
        status = 2
    except BrokenPipeError:
        # The reader has seen enough (`| head`).
        status = _BROKEN_PIPE
    except OSError as error:
        # A result that cannot be written, mostly.
        named = error.filename is not None and error.strerror
        say(f"{command}: {f'{error.filename}: {error.strerror}.' if named else error}")
        status = 2
    except (MemoryError, RuntimeError) as error:
        from gemoclap_sb.inference.failures import is_out_of_memory

        if not is_out_of_memory(error):
            raise
        say(f"{command}: {_too_large(options, error)}")
        status = 2
    _forget(out)
    return status


def _too_large(options: argparse.Namespace, error: BaseException) -> str:
    """Say what to lower where memory does not suffice."""
    size = getattr(options, "batch_size", None)
    advice = "Free some, or use a smaller model."
    if size not in (None, 1):
        advice = f"Lower --batch-size (now {size})."
    elif hasattr(options, "window"):
        advice = f"Lower --window (now {options.window:g})."
    elif hasattr(options, "files"):
        advice = "Free some, or give a higher --files."
    reason = str(error).strip().partition("\n")[0].rstrip(".") or "out of memory"
    return f"there is not enough memory ({reason}). {advice}"


def _forget(out: TextIO | None) -> None:
    """Drop what could not be written, or Python complains at its own exit when it flushes it.

    https://docs.python.org/3/library/signal.html#note-on-sigpipe
    """
    with contextlib.suppress(OSError, ValueError, AttributeError):
        out.flush()
        return
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())


@contextlib.contextmanager
def _streams() -> Iterator[TextIO | None]:
    """Give standard output, None if it is closed; standard error shows nothing raw meanwhile."""
    out, err = sys.stdout, sys.stderr
    # Of a stream that is closed, the next file to be opened would get the number.
    for number, stream in enumerate((sys.stdin, out, err)):
        if stream is None:
            with contextlib.suppress(OSError):
                while os.open(os.devnull, os.O_RDWR) < number:
                    pass
    if isinstance(out, io.TextIOWrapper):
        # File names need not be valid UTF-8; they leave as they came.
        out.reconfigure(encoding="utf-8", errors="surrogateescape")
    screen = Screen(open(os.devnull, "w", encoding="utf-8") if err is None else err)  # noqa: SIM115
    with contextlib.redirect_stderr(screen):
        yield out


class _Stopped(BaseException):
    """SIGINT or SIGTERM came; no handler of errors stops it on its way."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.status = 128 + number


@contextlib.contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Raise `_Stopped` at the first signal to stop, so that temporary files go; end at the next.

    A signal that the process was told to ignore stays ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        for each in _SIGNALS:
            if signal.getsignal(each) is stop:
                signal.signal(each, lambda number, frame: os._exit(128 + number))
        raise _Stopped(number)

    before = {each: signal.getsignal(each) for each in _SIGNALS}
    heard = [each for each in _SIGNALS if before[each] not in (signal.SIG_IGN, None)]
    for each in heard:
        signal.signal(each, stop)
    try:
        yield
    finally:
        for each in heard:
            signal.signal(each, before[each])


def build_parser() -> argparse.ArgumentParser:
    """Make the parser of all commands; it leaves the function to call in ``run``."""
    parser = OneLineParser(
        prog=_PROGRAM,
        description="Emotion in speech, recognised by words (GEmo-CLAP for SpeechBrain).",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--version", action="version", version=f"{_PROGRAM} {version('gemoclap_sb')}"
    )
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in _COMMANDS:
        of_command = subparsers.add_parser(
            command.__name__.rpartition(".")[2],
            help=command.SUMMARY,
            description=command.DESCRIPTION,
            epilog=f"examples:\n{command.EXAMPLES}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(of_command)
        of_command.set_defaults(run=command.run, prints=command not in (embed, cluster))
    return parser
