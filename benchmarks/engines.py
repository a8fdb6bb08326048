"""Bulk embedding, engine by engine, and where the time goes.

Each engine is the command `gemoclap embed` on a manifest of the same recordings, as users give
it: one process, two shards side by side with half of the threads each, and Ray. They take turns,
whose order changes from round to round. Each is also given one recording, which is what starting
takes; the rate is that of the others in the time beyond. All folders must hold the same
embeddings. Of cores, one process has as many as threads (`OMP_NUM_THREADS`), Ray has all.

Then one thread does a part after the other, and what it does is timed: decoding (reading and
resampling), the model, and the rest (sorting, Parquet). Of the model's time the share of padding
is that of samples which are no speech in its batches.

    python benchmarks/engines.py --audio /path/to/RAVDESS
    python benchmarks/engines.py --audio FOLDER --model EXPORTED_FOLDER --engines local ray

`--device cuda` measures on GPUs; the shards then have one each, if there are two. Without
`--model`, the model that is part of the package is taken.
"""

from __future__ import annotations

import csv
import os
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser, RawTextHelpFormatter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from gemoclap_sb.cli.inputs import find_audio
from gemoclap_sb.data.audio import audio_info
from gemoclap_sb.data.parts import ROWS_PER_PART, PartedManifest, cut_manifest
from gemoclap_sb.inference import bulk
from gemoclap_sb.inference.classifier import GEmoCLAPClassifier
from gemoclap_sb.inference.loading import DEFAULT_FOLDER
from gemoclap_sb.inference.shards import EmbeddingJob, embed_shard
from gemoclap_sb.models.digest import model_digest

LOCAL, SHARDS, RAY = "local", "shards", "ray"
NAMES = {LOCAL: "local", SHARDS: "two shards side by side", RAY: "Ray"}
COMMAND = [sys.executable, "-m", "gemoclap_sb.cli", "embed"]
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Setting:
    """What the commands of all engines have in common."""

    model: Path
    rows_per_part: int
    device: str

    def arguments(self, manifest: Path, output: Path) -> list[str]:
        """Of the command, but for its engine."""
        given = {"--model": self.model, "--output": output, "--rows-per-part": self.rows_per_part}
        return [*COMMAND, str(manifest), *(str(part) for pair in given.items() for part in pair)]

    def commands(self, engine: str, manifest: Path, output: Path) -> list[tuple[list[str], int]]:
        """Commands that run side by side, and the threads of each, 0 for its own choice."""
        command = self.arguments(manifest, output)
        gpus = torch.cuda.device_count() if self.device == "cuda" else 0
        if engine == SHARDS:
            half = max(1, torch.get_num_threads() // 2)
            of = [f"cuda:{k % gpus}" if gpus else self.device for k in range(2)]
            shards = [[*command, "--shard", f"{k + 1}/2", "--device", of[k]] for k in range(2)]
            return [(shard, half) for shard in shards]
        ray = ["--engine", "ray"] if engine == RAY else []
        return [([*command, *ray, "--device", self.device], 0)]


def write_csv(path: Path, paths: Sequence[str]) -> Path:
    """Write a manifest of recordings."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        rows = [[f"{i:07d}", os.path.abspath(name)] for i, name in enumerate(paths)]
        csv.writer(file).writerows([["ID", "wav"], *rows])
    return path


def run(commands: Sequence[tuple[list[str], int]]) -> float:
    """Seconds until commands that run side by side have all ended."""
    start = time.perf_counter()
    processes = []
    for command, threads in commands:
        environment = {**os.environ, **({"OMP_NUM_THREADS": str(threads)} if threads else {})}
        processes.append(
            subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        )
    for process in processes:
        if process.wait():
            raise SystemExit(f"A command failed:\n{process.stderr.read()}")
    return time.perf_counter() - start


def measure(
    setting: Setting, engines: Sequence[str], paths: Sequence[str], rounds: int, folder: Path
) -> dict[str, list[tuple[float, float]]]:
    """By engine, for each round: seconds for one recording, and for all."""
    manifests = [write_csv(folder / "one.csv", paths[:1]), write_csv(folder / "all.csv", paths)]
    seconds: dict[str, list[tuple[float, float]]] = {engine: [] for engine in engines}
    for number in range(rounds):
        for engine in reversed(engines) if number % 2 else engines:
            taken = []
            for manifest in manifests:
                output = folder / f"{engine}-{number}-{manifest.stem}"
                taken.append(run(setting.commands(engine, manifest, output)))
            seconds[engine].append((taken[0], taken[1]))
    return seconds


def embeddings(folder: Path) -> tuple[list[str], np.ndarray]:
    """IDs and embeddings [N, D] of a folder, in the order of its files."""
    tables = [pq.read_table(path) for path in sorted(folder.glob("part-*.parquet"))]
    names = [name for table in tables for name in table["ID"].to_pylist()]
    return names, np.array([row for table in tables for row in table["embedding"].to_pylist()])


def difference(folders: Sequence[Path]) -> float:
    """Largest difference of a number among folders; infinity if their IDs differ."""
    names, first = embeddings(folders[0])
    largest = 0.0
    for folder in folders[1:]:
        others, vectors = embeddings(folder)
        if others != names:
            return float("inf")
        largest = max(largest, float(np.abs(vectors - first).max()))
    return largest


@dataclass
class Shares:
    """Seconds of one thread by what it did, and samples by what they were."""

    decoding: float = 0.0
    model: float = 0.0
    total: float = 0.0
    speech: int = 0
    padded: int = 0

    @property
    def padding(self) -> float:
        """Share of the samples in batches that are no speech."""
        return 1 - self.speech / self.padded


def take_apart(
    classifier: GEmoCLAPClassifier, manifest: PartedManifest, folder: Path, model: Path
) -> Shares:
    """Embed all parts in one thread, and time what it does."""
    shares = Shares()
    read, embed = bulk.read_recording, bulk.embed_batch

    def timed(function: Callable, name: str) -> Callable:
        def call(*arguments: Any) -> Any:
            start = time.perf_counter()
            found = function(*arguments)
            setattr(shares, name, getattr(shares, name) + time.perf_counter() - start)
            return found

        return call

    def counted(tower: Any, batch: Sequence[bulk.Recording], device: Any) -> Any:
        lengths = [len(recording.wav) for recording in batch if recording.wav is not None]
        shares.speech += sum(lengths)
        shares.padded += max(lengths, default=0) * len(lengths)
        return timed_embed(tower, batch, device)

    timed_embed = timed(embed, "model")
    threads = torch.get_num_threads()
    bulk.read_recording, bulk.embed_batch = timed(read, "decoding"), counted
    torch.set_num_threads(1)
    try:
        job = EmbeddingJob(manifest, str(folder), model_digest(model), classifier.attribute)
        job.open_folder()
        start = time.perf_counter()
        for part in manifest.parts:
            embed_shard(classifier, job, part)
        shares.total = time.perf_counter() - start
    finally:
        bulk.read_recording, bulk.embed_batch = read, embed
        torch.set_num_threads(threads)
    return shares


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line, measure, print the tables; 1 if the embeddings differ."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawTextHelpFormatter)
    add = parser.add_argument
    add("--audio", required=True, help="folder of recordings")
    add("--model", type=Path, default=DEFAULT_FOLDER, help="exported folder")
    add("--files", type=int, help="only so many, spread evenly over the folder")
    add("--rounds", type=int, default=3)
    add(
        "--rows-per-part",
        type=int,
        help="default: an eighth of the files, as the command's at most",
    )
    add("--engines", nargs="+", choices=tuple(NAMES), default=list(NAMES))
    add("--device", choices=("cpu", "cuda"), default="cpu")
    options = parser.parse_args(arguments)

    paths = find_audio([options.audio])
    if options.files is not None:
        count = min(options.files, len(paths))
        paths = [paths[i * len(paths) // count] for i in range(count)]
    durations = [audio_info(path).duration for path in paths]
    hours, beyond = sum(durations) / 3600, (sum(durations) - durations[0]) / 3600
    rows = options.rows_per_part or max(1, min(ROWS_PER_PART, len(paths) // 8))
    setting = Setting(options.model.absolute(), rows, options.device)
    cores = os.cpu_count() or 1
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        seconds = measure(setting, options.engines, paths, options.rounds, folder)
        outputs = [
            folder / f"{engine}-{n}-all"
            for engine in options.engines
            for n in range(options.rounds)
        ]
        largest = difference(outputs)
        size = embeddings(outputs[0])[1].shape[1]
        stored = sum(path.stat().st_size for path in outputs[0].glob("part-*")) / len(paths)
        classifier = GEmoCLAPClassifier.from_pretrained(setting.model, device=options.device)
        manifest = cut_manifest(folder / "all.csv", rows_per_part=rows)
        # Once to warm up: memory, and what is built at the first use.
        first = cut_manifest(folder / "one.csv")
        take_apart(classifier, first, folder / "warm", setting.model)
        shares = take_apart(classifier, manifest, folder / "apart", setting.model)

    print(
        f"{len(paths)} files, {hours:.2f} h, parts of {rows}; model: {options.model.name}, "
        f"{size} numbers an embedding; {options.device}, {torch.get_num_threads()} threads on "
        f"{cores} cores, load {load:.1f} before; median of {options.rounds} rounds\n"
    )
    print("| engine | start s | files/s | slowest to fastest round | h of audio an h | a core |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    rates = {
        engine: [(len(paths) - 1) / (whole - one) for one, whole in of]
        for engine, of in seconds.items()
    }
    for engine, of in rates.items():
        rate = statistics.median(of)
        start = statistics.median(one for one, _ in seconds[engine])
        speed = rate * beyond / (len(paths) - 1) * 3600
        threads = torch.get_num_threads()
        used = {LOCAL: threads, SHARDS: 2 * max(1, threads // 2), RAY: cores}[engine]
        print(
            f"| {NAMES[engine]} | {start:.1f} | {rate:.1f} | {min(of):.1f} to {max(of):.1f} "
            f"| {speed:.0f} | {speed / used:.0f} |"
        )
    rest = shares.total - shares.decoding - shares.model
    print(f"\n| one thread, {shares.total:.1f} s | share of the time % |")
    print("| --- | ---: |")
    for what, part in (
        ("decoding", shares.decoding),
        ("the model, on speech", shares.model * (1 - shares.padding)),
        ("the model, on padding", shares.model * shares.padding),
        ("the rest", rest),
    ):
        print(f"| {what} | {100 * part / shares.total:.1f} |")
    print(f"\nAudio in one thread: {hours * 3600 / shares.total:.0f} h an hour")
    read = sum(map(os.path.getsize, paths)) / (sum(durations) * 16000 * 2)
    print(f"Read: {read:.2f} bytes for one of 16 bit PCM at 16 kHz")
    print(f"Stored: {stored:.0f} bytes a recording")
    print(f"Largest difference of a number: {largest:.1e}")
    if largest > TOLERANCE:
        print(f"The embeddings differ by more than {TOLERANCE:g}.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
