"""How fast many files are classified: `classify_files` beside a loop of stock `classify_file`.

Both classify the same files with the same exported folder, in one process, in turns, and
must find the same classes. The loop is SpeechBrain's own
``EncoderClassifier.from_hparams(source=folder)``, one file at a time, as its users write it.

    python benchmarks/classify_files.py --audio ../shared/data/ravdess16k
    python benchmarks/classify_files.py --audio FOLDER --model EXPORTED_FOLDER --repeats 3

Without `--model` an untrained model of the sizes of `hparams/ravdess_scratch.yaml` is
exported first; what it says is meaningless, how long it takes is not. CPU seconds are
given too, because on a machine that others use they say more than those of the clock.
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from speechbrain.inference.classifiers import EncoderClassifier

from gemoclap_sb.audio import audio_info
from gemoclap_sb.checkpoints import AtomicCheckpointer
from gemoclap_sb.configuration import write_run_config
from gemoclap_sb.export import export
from gemoclap_sb.inference import GEmoCLAPClassifier
from gemoclap_sb.lobes import AttentiveStatisticsPooling, ByteTextEncoder, ScratchEncoder
from gemoclap_sb.model import GEmoCLAP
from gemoclap_sb.prompts import Prompts

SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
WORDS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgusted", "surprised")


def export_untrained(folder: Path) -> Path:
    """Export a model from scratch, with random weights."""
    torch.manual_seed(0)
    lobe = ScratchEncoder(n_mels=64, channels=128)
    clap = GEmoCLAP(
        lobe,
        ByteTextEncoder(hidden_size=128),
        embedding_size=256,
        pooling=AttentiveStatisticsPooling(lobe.output_size),
    )
    prompts = Prompts(
        {"emotion": {word[:3]: word for word in WORDS}}, {"emotion": ["this person sounds {}"]}
    )
    run = folder / "run"
    write_run_config(run, clap, prompts)
    AtomicCheckpointer(run / "save", {"clap": clap}).save_checkpoint({"uar": 0.0})
    return export(run, folder / "exported")


def measure(classify: Callable[[], list[str]]) -> tuple[list[str], float, float]:
    """Labels, seconds by the clock, and seconds of all cores together."""
    clock, cores = time.perf_counter(), time.process_time()
    labels = classify()
    return labels, time.perf_counter() - clock, time.process_time() - cores


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--audio", type=Path, required=True, help="folder of recordings")
    parser.add_argument("--model", type=Path, help="exported folder")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--files", type=int, help="at most so many, spread over the folder")
    options = parser.parse_args()
    logging.disable(logging.WARNING)

    paths = sorted(str(p) for p in options.audio.rglob("*") if p.suffix.lower() in SUFFIXES)
    if not paths:
        parser.error(f"--audio: no {', '.join(SUFFIXES)} in {options.audio}")
    if options.files is not None:
        paths = paths[:: max(1, len(paths) // options.files)][: options.files]
    seconds = sum(audio_info(path).duration for path in paths)
    with tempfile.TemporaryDirectory() as folder:
        model = options.model or export_untrained(Path(folder))
        stock = EncoderClassifier.from_hparams(source=str(model), run_opts={"device": "cpu"})
        ours = GEmoCLAPClassifier.from_pretrained(model, device="cpu")
        ways = {
            "stock classify_file, a loop": lambda: [stock.classify_file(p)[3][0] for p in paths],
            "classify_files": lambda: [
                row.label or "" for row in ours.classify_files(paths, progress=False)
            ],
        }
        for path in paths[:3]:
            stock.classify_file(path)
            ours.classify_file(path)
        results: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
        found: dict[str, list[str]] = {}
        for _ in range(options.repeats):
            for way, classify in ways.items():
                found[way], clock, cores = measure(classify)
                results[way].append((clock, cores))

    first, second = found.values()
    print(
        f"{len(paths)} files, {seconds / 60:.1f} minutes of audio, {torch.get_num_threads()} "
        f"threads on {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; the same class for "
        f"{sum(a == b for a, b in zip(first, second, strict=True))} files; "
        f"median of {options.repeats}"
    )
    print("| | s | files/s | CPU s | times as fast |")
    print("| --- | --- | --- | --- | --- |")
    medians = {way: statistics.median(c for c, _ in rows) for way, rows in results.items()}
    baseline = next(iter(medians.values()))
    for way, clock in medians.items():
        cores = statistics.median(c for _, c in results[way])
        print(
            f"| {way} | {clock:.1f} | {len(paths) / clock:.1f} | {cores:.1f} "
            f"| {baseline / clock:.2f} |"
        )


if __name__ == "__main__":
    main()
