"""Utterances a second: `GEmoCLAPClassifier.classify_files` beside stock SpeechBrain.

The rival is a loop of ``EncoderClassifier.classify_file`` on the same exported folder, one
file at a time, as SpeechBrain's users write it. Both take the same files in the same
process, in turns that change their order from round to round, after a warm-up. The medians
over the rounds are compared, and so are all scores: a batch must not change an answer.
Then one file from a cold start, in fresh processes by turns: imports, loading, computing. At last
what the command `gemoclap classify` takes of a machine for one file, beside the mere import of
SpeechBrain's class, below which nothing that builds on it can come.

    python benchmarks/throughput.py --audio /path/to/RAVDESS
    python benchmarks/throughput.py --audio FOLDER --model EXPORTED_FOLDER --rounds 5

Without `--model`, the model of `hparams/ravdess_scratch.yaml` is exported with random
weights, which changes what it answers but not how long it takes.
"""

from __future__ import annotations

import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser, RawTextHelpFormatter
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from hyperpyyaml import load_hyperpyyaml
from speechbrain.inference.classifiers import EncoderClassifier
from torch import Tensor

from gemoclap_sb.cli.inputs import find_audio
from gemoclap_sb.data.audio import audio_info
from gemoclap_sb.export.folder import export
from gemoclap_sb.inference.classifier import GEmoCLAPClassifier
from gemoclap_sb.models.configuration import write_run_config
from gemoclap_sb.training.checkpoints import AtomicCheckpointer

HPARAMS = Path(__file__).resolve().parent.parent / "hparams" / "ravdess_scratch.yaml"
STOCK, OURS = "stock classify_file, in a loop", "classify_files"
TOLERANCE = 1e-4

# What a process does that classifies one file, and its seconds since the last print.
COLD = """
import sys, time
start = time.perf_counter()
{load_class}
imported = time.perf_counter()
classifier = {make}
loaded = time.perf_counter()
classifier.classify_file(sys.argv[1])
print(imported - start, loaded - imported, time.perf_counter() - loaded)
"""
COLD_STARTS = {
    "EncoderClassifier": COLD.format(
        load_class="from speechbrain.inference.classifiers import EncoderClassifier",
        make="EncoderClassifier.from_hparams(source=sys.argv[2])",
    ),
    "GEmoCLAPClassifier": COLD.format(
        load_class="from gemoclap_sb.inference import GEmoCLAPClassifier",
        make="GEmoCLAPClassifier.from_pretrained(sys.argv[2], device='cpu')",
    ),
}

# Importing SpeechBrain's class alone, and the whole command: arguments are a file and a model.
IMPORT, COMMAND = "import speechbrain.inference.classifiers", "gemoclap classify FILE"
# A small process starts them: what a large one holds when it forks is counted as the new one's.
# Linux counts in kB.
LAUNCH = """
import resource, subprocess, sys, time
start = time.perf_counter()
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime, used.ru_maxrss * 1.024e-3, time.perf_counter() - start)
"""
COMMANDS = {
    IMPORT: ["-c", IMPORT],
    COMMAND: ["-m", "gemoclap_sb.cli", "classify", "{file}", "--model", "{model}"],
}

Classify = Callable[[Sequence[str]], Tensor]


def export_untrained(folder: Path) -> Path:
    """Export the model of `hparams/ravdess_scratch.yaml` as it is before training."""
    with HPARAMS.open(encoding="utf-8") as stream:
        hparams = load_hyperpyyaml(stream, {"output_folder": str(folder / "run")})
    clap = hparams["clap"]
    write_run_config(folder / "run", clap, hparams["prompts"])
    AtomicCheckpointer(folder / "run" / "save", {"clap": clap}).save_checkpoint({"uar": 0.0})
    return export(folder / "run", folder / "exported")


def make_ways(model: Path, device: str) -> dict[str, Classify]:
    """Load the folder both ways: by name, a function from N paths to probabilities [N, C]."""
    stock = EncoderClassifier.from_hparams(source=str(model), run_opts={"device": device})
    ours = GEmoCLAPClassifier.from_pretrained(model, device=device)

    def loop(paths: Sequence[str]) -> Tensor:
        return torch.cat([stock.classify_file(path)[0].exp().cpu() for path in paths])

    def together(paths: Sequence[str]) -> Tensor:
        rows = ours.classify_files(paths, progress=False)
        return torch.tensor([list(row.probabilities.values()) for row in rows])

    return {STOCK: loop, OURS: together}


def measure(
    ways: dict[str, Classify], paths: Sequence[str], rounds: int
) -> tuple[dict[str, list[float]], float]:
    """Seconds of each round by way, and the largest difference of a probability."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    scores: list[Tensor] = []
    for classify in ways.values():
        classify(paths[:: max(1, len(paths) // 16)])
    for number in range(rounds):
        order = list(ways.items())
        for name, classify in reversed(order) if number % 2 else order:
            start = time.perf_counter()
            found = classify(paths)
            seconds[name].append(time.perf_counter() - start)
            scores.append(found)
    stacked = torch.stack(scores)
    return seconds, float((stacked.amax(dim=0) - stacked.amin(dim=0)).max())


def cold_start(path: str, model: Path, rounds: int) -> dict[str, list[float]]:
    """Median seconds of imports, loading and computing, by class."""
    seconds: dict[str, list[list[float]]] = {name: [] for name in COLD_STARTS}
    for _ in range(rounds):
        for name, script in COLD_STARTS.items():
            command = [sys.executable, "-c", script, path, str(model)]
            printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            seconds[name].append([float(part) for part in printed.split()[-3:]])
    return {name: [*map(statistics.median, zip(*of, strict=True))] for name, of in seconds.items()}


def cold_commands(path: str, model: Path, rounds: int) -> dict[str, list[float]]:
    """Median CPU seconds, peak MB and seconds of each of `COMMANDS`."""
    measured: dict[str, list[list[float]]] = {name: [] for name in COMMANDS}
    for _ in range(rounds):
        for name, parts in COMMANDS.items():
            filled = [part.format(file=path, model=model) for part in parts]
            command = [sys.executable, "-c", LAUNCH, sys.executable, *filled]
            printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            measured[name].append([float(part) for part in printed.split()])
    return {name: [*map(statistics.median, zip(*of, strict=True))] for name, of in measured.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line, measure, print the table; 1 if the scores differ."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawTextHelpFormatter)
    add = parser.add_argument
    add("--audio", required=True, help="folder of recordings")
    add("--model", type=Path, help="exported folder")
    add("--files", type=int, help="only so many, spread evenly over the folder")
    add("--rounds", type=int, default=3)
    add("--device", default="cpu")
    options = parser.parse_args(arguments)
    # SpeechBrain logs every fetch of a file, which takes time and hides the table.
    logging.getLogger("speechbrain").setLevel(logging.WARNING)

    paths = find_audio([options.audio])
    if options.files is not None:
        count = min(options.files, len(paths))
        paths = [paths[i * len(paths) // count] for i in range(count)]
    hours = sum(audio_info(path).duration for path in paths) / 3600
    with tempfile.TemporaryDirectory() as folder:
        model = options.model or export_untrained(Path(folder))
        seconds, difference = measure(make_ways(model, options.device), paths, options.rounds)
        cold = cold_start(paths[0], model, options.rounds)
        commands = cold_commands(paths[0], model, options.rounds)

    what = options.model or f"{HPARAMS.stem} with random weights"
    print(
        f"{len(paths)} files, {hours:.2f} h; model: {what}; {options.device}, "
        f"{torch.get_num_threads()} threads on {os.cpu_count()} cores, load "
        f"{os.getloadavg()[0]:.1f}; median of {options.rounds} rounds\n"
    )
    print("| | utterances/s | slowest to fastest round | times stock |")
    print("| --- | ---: | ---: | ---: |")
    base = statistics.median(seconds[STOCK])
    for name, of in seconds.items():
        rates = sorted(len(paths) / one for one in of)
        print(
            f"| {name} | {len(paths) / statistics.median(of):.1f} "
            f"| {rates[0]:.1f} to {rates[-1]:.1f} | {base / statistics.median(of):.2f} |"
        )
    print("\n| one file, cold start | imports s | loading s | computing s |")
    print("| --- | ---: | ---: | ---: |")
    for name, of in cold.items():
        print(f"| {name} | " + " | ".join(f"{part:.3f}" for part in of) + " |")
    print("\n| a fresh process | CPU s | peak MB | s |")
    print("| --- | ---: | ---: | ---: |")
    for name, (cpu, peak, elapsed) in commands.items():
        print(f"| `{name}` | {cpu:.2f} | {peak:.0f} | {elapsed:.2f} |")
    print(f"\nLargest difference of a probability: {difference:.1e}")
    if difference > TOLERANCE:
        print(f"The scores differ by more than {TOLERANCE:g}.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
