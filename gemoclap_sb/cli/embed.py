"""``gemoclap embed``: embeddings of recordings, into a file; of a manifest, into a folder."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from gemoclap_sb.cli import embed_manifest, embedding_files, inputs, models, output
from gemoclap_sb.cli.destinations import check_file, writing
from gemoclap_sb.cli.pieces import Piece, Pieces
from gemoclap_sb.cli.terminal import say

if TYPE_CHECKING:
    import numpy as np

    from gemoclap_sb.inference.bulk import FileEmbedding

SUMMARY = "embeddings of recordings, into a file, or of a manifest's into a folder"
DESCRIPTION = (
    "Embed recordings: L2-normalised rows in the order of the files. X.npy comes with X.ids.csv, "
    "whose columns say of which file each row is and by which model; a Parquet file has ID and "
    "embedding. A file that cannot be read is left out. An interrupted run goes on when the same "
    "command is given again. The model may be a speaker encoder of SpeechBrain too. A manifest, a "
    ".csv file with the columns ID and wav, becomes a folder of Parquet files, which several "
    "processes and machines can write together."
)
EXAMPLES = """\
  gemoclap embed recordings/ --model exported --output embeddings.npy
  gemoclap embed recordings/ --model speechbrain/spkrec-ecapa-voxceleb --output speakers.npy
  gemoclap embed corpus.csv --model exported --output embeddings/
  gemoclap embed corpus.csv --model exported --output embeddings/ --shard 3/64
  gemoclap embed corpus.csv --model exported --output embeddings/ --engine ray"""


def add_arguments(parser: ArgumentParser) -> None:
    """Add what the command takes."""
    inputs.add_recordings(parser)
    models.add_model(parser)
    inputs.add_batch_size(parser)
    help = ".npy, or .parquet (needs pyarrow); of a manifest a folder"
    parser.add_argument("--output", required=True, metavar="FILE_OR_FOLDER", help=help)
    embed_manifest.add_arguments(parser)


def run(options: Namespace, out: TextIO) -> int:
    """Write the embeddings of recordings, and which row is whose."""
    if embed_manifest.is_asked_for(options):
        return embed_manifest.run(options)
    target = embedding_files.check_name("--output", options.output)
    check_file("--output", target, options.inputs)
    if target.suffix == ".npy":
        check_file("--output", embedding_files.names_file(target))
    with inputs.recordings(options.inputs) as recordings:
        return _embed(recordings, target, options)


def _embed(recordings: inputs.Recordings, target: Path, options: Namespace) -> int:
    with models.model_folder(options.model, speakers=True) as folder:
        classifier = models.load_encoder(options, folder)
        model = models.model_digest(folder)
    from tqdm import tqdm

    size = classifier.embedding_size
    pieces = Pieces(
        target,
        recordings.paths,
        {
            "model": model,
            "attribute": classifier.attribute,
            "device": str(classifier.device),
            "batch_size": options.batch_size,
            "suffix": target.suffix,
        },
    )
    again = " The same command goes on from what is finished."
    failures, rows, made = output.Failures(recordings.unreadable), 0, []
    with writing(pieces.folder, again):
        pieces.tidy()
        # None: on a terminal only.
        with tqdm(total=len(recordings.paths), unit="file", disable=None) as bar:
            for piece in pieces:
                held = piece.read(size)
                if held is None:
                    bulk = {"batch_size": options.batch_size, "progress": False}
                    found = recordings.named(classifier.encode_files(piece.paths, **bulk))
                    if target.suffix == ".parquet":
                        found = map(_of_utf_8, found)
                    vectors, errors = _collected(failures.watch(found), size, bar)
                    piece.write(vectors, errors)
                else:
                    vectors, errors = held
                    failures.tell(error for error in errors if error is not None)
                    bar.update(len(piece.paths))
                rows += len(vectors)
                if len(vectors):
                    made.append((piece, errors))
    if rows:
        blocks = _blocks(made, recordings, size)
        with writing(target, again):
            embedding_files.write(target, blocks, rows, size, model)
        say(f"{target}: {rows} embeddings of size {size}")
    else:
        say(f"Nothing to write into {target}: no file could be read.")
    pieces.remove()
    return failures.status


def _collected(
    rows: Iterable[FileEmbedding], size: int, bar
) -> tuple[np.ndarray, list[str | None]]:
    import numpy as np

    vectors, errors = [], []
    for row in rows:
        if row.embedding is not None:
            vectors.append(row.embedding.numpy())
        errors.append(row.error)
        bar.update()
    return (np.stack(vectors) if vectors else np.empty((0, size), np.float32)), errors


def _of_utf_8(row: FileEmbedding) -> FileEmbedding:
    """Give up a file whose name Parquet cannot hold."""
    try:
        row.path.encode("utf-8")
    except UnicodeEncodeError:
        error = f"{row.path}: its name is not UTF-8, as Parquet wants it. Write a .npy file."
        return replace(row, embedding=None, error=row.error or error)
    return row


def _blocks(
    made: Iterable[tuple[Piece, list[str | None]]], recordings: inputs.Recordings, size: int
) -> Iterator[embedding_files.Block]:
    for piece, errors in made:
        named = (inputs.STDIN if path == recordings.copy else path for path in piece.paths)
        names = [name for name, error in zip(named, errors, strict=True) if error is None]
        held = piece.read(size)
        if held is None:
            raise OSError(f"{piece.file} is gone: another run on the same output?")
        yield names, held[0]
