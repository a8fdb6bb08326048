"""``gemoclap export``: a finished run, or several averaged, as a folder that moves freely."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TextIO

from gemoclap_sb.cli import output
from gemoclap_sb.cli.destinations import check_folder, writing
from gemoclap_sb.cli.errors import UsageError, usage_errors
from gemoclap_sb.cli.terminal import say

SUMMARY = "a finished run, or several averaged, as a folder that moves freely"
DESCRIPTION = (
    "Write a run's best model into a self-contained folder, which this command, GEmoCLAPClassifier "
    "and stock SpeechBrain load. Several runs with the same classes, prompts and heads, such as "
    "those of other seeds, become one model that averages their cosines."
)
EXAMPLES = """\
  gemoclap export results/sl_wavlm/seed_1/fold_1 exported --license apache-2.0
  gemoclap export results/sl_wavlm/seed_*/fold_1 averaged
  gemoclap export results/sl_wavlm/seed_1/fold_1 exported --push-to-hub me/my-model
  gemoclap export results/sl_wavlm/seed_1/fold_1 results/sl_wavlm/seed_1/fold_1/encoder --encoder"""
_OF_THE_CARD = ("name", "license", "datasets", "language")


def add_arguments(parser: ArgumentParser) -> None:
    """Add what the command takes."""
    help = "output folder of a run; several are averaged"
    parser.add_argument("run_folders", nargs="+", metavar="RUN", help=help)
    parser.add_argument("out_folder", metavar="OUT", help="folder to write")
    parser.add_argument("--overwrite", action="store_true", help="replace an export in OUT")
    help = "the audio encoder alone, for others to begin from as their audio_source"
    parser.add_argument("--encoder", action="store_true", help=help)
    card = parser.add_argument_group("model card")
    card.add_argument("--name", help="the model's name (default: the folder's)")
    card.add_argument("--license", metavar="SPDX", help="such as apache-2.0")
    card.add_argument("--datasets", nargs="+", default=[], metavar="NAME", help="trained on")
    card.add_argument("--language", metavar="CODE", help="of the data, such as en")
    hub = parser.add_argument_group("Hugging Face hub")
    hub.add_argument("--push-to-hub", metavar="REPO", help="upload it as owner/name")
    hub.add_argument("--private", action="store_true", help="make a new repository private")


def run(options: Namespace, out: TextIO) -> int:
    """Write a model of one run or more into a folder, upload it if asked to, print where."""
    check_folder("OUT", options.out_folder)
    if options.encoder:
        return _export_encoder(options, out)
    from huggingface_hub.utils import validate_repo_id

    if options.push_to_hub is not None:
        with usage_errors():
            validate_repo_id(options.push_to_hub)
    elif options.private:
        raise UsageError("--private: expected --push-to-hub beside it.")
    from gemoclap_sb.export.folder import export
    from gemoclap_sb.export.hub import push_to_hub
    from gemoclap_sb.export.trained import ExportError

    card = {key: getattr(options, key) for key in _OF_THE_CARD}
    target = options.out_folder
    try:
        with usage_errors(), writing(target):
            folder = export(options.run_folders, target, overwrite=options.overwrite, **card)
    except ExportError as error:
        raise UsageError(str(error).replace(", overwrite=True", "")) from error
    output.print_lines([str(folder)], out)
    if options.push_to_hub is None:
        return 0
    try:
        address = push_to_hub(folder, options.push_to_hub, private=options.private)
    # Whatever the network, the hub or a missing login raises, the export stands.
    except Exception as error:
        say(f"{folder} is written, but was not uploaded: {error}")
        return 1
    output.print_lines([address], out)
    return 0


def _export_encoder(options: Namespace, out: TextIO) -> int:
    """Write a run's audio encoder into a folder, and print where."""
    if given := [f"--{key}" for key in (*_OF_THE_CARD, "push_to_hub") if getattr(options, key)]:
        option = given[0].replace("_", "-")
        raise UsageError(f"{option}: an encoder alone has no model card and no place on the hub.")
    if options.overwrite:
        raise UsageError("--overwrite: goes with whole models; name a new folder for an encoder.")
    if len(options.run_folders) > 1:
        raise UsageError("--encoder: expected one run; several are averaged as whole models.")
    from gemoclap_sb.export.folder import export_encoder
    from gemoclap_sb.export.trained import ExportError

    target = options.out_folder
    try:
        with usage_errors(), writing(target):
            folder = export_encoder(options.run_folders[0], target)
    except ExportError as error:
        raise UsageError(str(error).replace(", overwrite=True", "")) from error
    output.print_lines([str(folder)], out)
    return 0
