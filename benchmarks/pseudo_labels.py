"""Peak memory of frame pseudo-labels by the amount of speech: features, k-means and labels.

    python benchmarks/pseudo_labels.py                              # a few minutes on two cores
    python benchmarks/pseudo_labels.py --hours 0.05 --block-seconds 30 --times 1 2

Each row makes the labels of so many hours of speech in a process of its own, as GMP-TL does it,
with the encoder of `hparams/ravdess_gmp_tl.yaml` and random weights, all of its blocks side by
side. Utterances are noise of 1 to 9 s, and one in eight is validation. Peak memory is the
resident set, libraries included.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace, RawTextHelpFormatter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile
import torch
from encoder_tables import print_table

from gemoclap_sb.data.contents import rows_digest
from gemoclap_sb.data.datasets import build_dataset
from gemoclap_sb.data.label_store import LABELS, read_labels
from gemoclap_sb.data.labels import label_encoders
from gemoclap_sb.lobes import ResNetEncoder
from gemoclap_sb.models import FrameClassifier
from gemoclap_sb.training import pseudo_labels
from gemoclap_sb.training.frame_features import extract_frames
from gemoclap_sb.training.pseudo_labels import LabelOptions, label_record, make_pseudo_labels

SAMPLE_RATE = 16000
LAYERS = [1, 2, 3, 4, 5]
# What the largest row may take of memory, over the smallest.
GOAL = 1.2
MIB = 2**20


def make_rows(folder: Path, hours: float, seed: int) -> dict[str, dict[str, dict]]:
    """Rows of both splits; utterances of one length share a file."""
    draw = np.random.default_rng(seed)
    files = {}
    for seconds in range(1, 10):
        files[seconds] = str(folder / f"{seconds}.wav")
        noise = draw.normal(0, 0.1, seconds * SAMPLE_RATE)
        soundfile.write(files[seconds], noise, SAMPLE_RATE)
    rows: dict[str, dict[str, dict]] = {"train": {}, "valid": {}}
    left, number = hours * 3600, 0
    while left > 0:
        seconds, split = int(draw.integers(1, 10)), "valid" if number % 8 == 0 else "train"
        row = {"wav": files[seconds], "duration": float(seconds), "gender": "FM"[number % 2]}
        rows[split][f"utterance {number}"] = row
        left, number = left - seconds, number + 1
    return rows


def work(options: Namespace) -> None:
    """Make the labels of a row in this process, and print what was found."""
    torch.manual_seed(options.seed)
    rows = make_rows(options.worker, options.hours, options.seed)
    datasets = {split: build_dataset(of, {}) for split, of in rows.items()}
    encoders = label_encoders(["gender"], {}, rows.values())
    contents = {split: {"sha256": rows_digest(of)} for split, of in rows.items()}
    asked = LabelOptions(
        LAYERS, options.clusters, ["gender"], options.passes, options.block_seconds, options.seed
    )
    sizes = []

    def extract(blocks, *arguments) -> None:
        extract_frames(blocks, *arguments)
        sizes.append(sum(block.path.stat().st_size for block in blocks))

    pseudo_labels.extract_frames = extract
    folder = options.worker / "labels"
    model = FrameClassifier(ResNetEncoder(n_mels=options.n_mels))
    record = label_record(asked, model, contents)
    started = time.perf_counter()
    make_pseudo_labels(folder, model, rows, datasets, encoders, asked, record)
    found = {
        "seconds": time.perf_counter() - started,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "utterances": sum(map(len, rows.values())),
        "frames": len(read_labels(folder).labels),
        "features": sum(sizes),
        "labels": (folder / LABELS).stat().st_size,
    }
    print(json.dumps(found))


def measure(options: Namespace, hours: float) -> dict[str, float]:
    """Figures of a row."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["--worker", folder, "--hours", hours, "--seed", options.seed]
        arguments += ["--block-seconds", options.block_seconds, "--passes", options.passes]
        arguments += ["--n-mels", options.n_mels, "--clusters", *options.clusters]
        command = [sys.executable, __file__, *map(str, arguments)]
        ended = subprocess.run(command, capture_output=True, text=True)
    if ended.returncode:
        raise RuntimeError(f"{hours} hours:\n{ended.stderr}")
    return json.loads(ended.stdout.splitlines()[-1])


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure every row, print the table; 1 if the goal is missed."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawTextHelpFormatter)
    add = parser.add_argument
    add("--hours", type=float, default=0.9, help="of speech, once")
    add("--times", type=int, nargs="+", default=[1, 2, 4, 8], help="so many times as much")
    add("--block-seconds", type=float, default=400.0)
    add("--clusters", type=int, nargs="+", default=[8, 32, 128])
    add("--passes", type=int, default=3, help="of k-means")
    add("--n-mels", type=int, default=96)
    add("--seed", type=int, default=1)
    # Of a process that measures a row.
    add("--worker", type=Path, metavar="FOLDER")
    options = parser.parse_args(arguments)
    if options.worker:
        work(options)
        return 0
    lines, peaks = [], []
    for times in options.times:
        print(f"{times} times", file=sys.stderr)
        found = measure(options, options.hours * times)
        peaks.append(found["peak"])
        cells = [
            f"{options.hours * times:.2f}",
            f"{found['utterances']}",
            f"{found['frames']}",
            f"{found['features'] / MIB:.0f}",
            f"{found['labels'] / MIB:.2f}",
            f"{found['peak'] / MIB:.0f}",
            f"{found['seconds']:.0f}",
        ]
        lines.append([str(times), *cells])
    print(
        f"Blocks {', '.join(map(str, LAYERS))} of the SE-ResNet, clusters "
        f"{', '.join(map(str, options.clusters))}, {options.passes} passes, blocks of "
        f"{options.block_seconds:g} s; {torch.get_num_threads()} threads\n"
    )
    header = "times | hours | utterances | frames | features MiB | labels MiB | peak MiB | s"
    print_table(header, lines)
    ratio = peaks[-1] / peaks[0]
    reached = ratio <= GOAL
    print(
        f"\n- memory at {options.times[-1]} times over that at {options.times[0]}: {ratio:.2f}, "
        f"goal at most {GOAL}: {'' if reached else 'not '}reached"
    )
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
