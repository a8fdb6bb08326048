"""Peak memory and time of a training step by batch size: direct and in micro-batches.

    python benchmarks/scaling.py                                  # base, CPU, half an hour
    python benchmarks/scaling.py --size large --device cuda --precision bf16 --duration-scale 1
    python benchmarks/scaling.py --size tiny --batch-sizes 32 64  # a minute, to try it

Each row is one step of `hparams/sl_wavlm.yaml` by its brain in fresh processes, after a step of a
few utterances to warm up, with an encoder of random weights. The utterances of a batch are drawn at
random from the corpus's durations, the same direct and in micro-batches; `--duration-scale`
shortens them; waveforms are noise. With two processes each has half of the batch, and half of the
threads. Peak memory is that of the largest process, with weights, optimiser and the batch's
waveforms: on a GPU what torch allocated, on the CPU the resident set, libraries included. A row
that passes `--memory-limit` is told as one that does not fit.
"""

from __future__ import annotations

import json
import logging
import math
import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace, RawTextHelpFormatter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from encoder_tables import print_table
from encoders import SHAPES, peak_memory, save_models
from hyperpyyaml import load_hyperpyyaml
from padding import SAMPLE_RATE, read_seconds
from speechbrain import Stage
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.utils.run_opts import RunOptions

from gemoclap_sb.data.labels import label_encoders
from gemoclap_sb.training.gemoclap_brain import GEmoCLAPBrain, needed_labels
from gemoclap_sb.training.launch import join_group

HPARAMS = Path(__file__).resolve().parent.parent / "hparams" / "sl_wavlm.yaml"
EMOTIONS, GENDERS = ("ang", "hap", "neu", "sad"), ("F", "M")
DIRECT, CACHED = "direct", "micro-batches"
# What the cached path may take of memory at the largest batch, over that at the smallest.
GOAL = 1.3
WARM_UP = 8


class Noise(torch.utils.data.Dataset):
    """Utterances as the brain reads them, made when they are asked for."""

    def __init__(self, rows: dict, encoders: dict) -> None:
        self.ids, self.rows, self.encoders = list(rows), list(rows.values()), encoders

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict:
        row = self.rows[index]
        generator = torch.Generator().manual_seed(index)
        item = {"id": self.ids[index]}
        item["sig"] = torch.randn(round(row["duration"] * SAMPLE_RATE), generator=generator)
        for name in ("emotion", "gender"):
            item[name] = row[name]
            item[f"{name}_encoded"] = self.encoders[name].encode_label(row[name])
        return item


def make_rows(options: Namespace, count: int) -> dict[str, dict]:
    """Rows of a manifest, the same for the same count."""
    drawn = np.random.default_rng((options.seed, count)).choice(options.seconds, count)
    # The encoders' first frame takes 0.025 s.
    seconds = np.maximum(drawn * options.duration_scale, 0.05)
    return {
        str(i): {"duration": of, "emotion": EMOTIONS[i % 4], "gender": GENDERS[i // 4 % 2]}
        for i, of in enumerate(seconds.tolist())
    }


def make_brain(options: Namespace) -> GEmoCLAPBrain:
    """Make the brain of the experiment, in the group of processes if there is one."""
    processes = int(os.environ.get("WORLD_SIZE", 1))
    overrides = {
        "audio_source": str(options.folder / "wavlm"),
        "text_source": str(options.folder / "text"),
        "pretrained_folder": str(options.folder),
        "output_folder": str(options.folder / "run"),
        "batch_size": options.batch_size // processes,
        "micro_batch_size": options.micro_batch_size,
        "pool_batches": 1,
        "num_workers": 0,
        "gradient_checkpointing": options.gradient_checkpointing,
    }
    run_opts = RunOptions(device=options.device, precision=options.precision)
    run_opts = join_group(run_opts)
    with HPARAMS.open(encoding="utf-8") as stream:
        hparams = load_hyperpyyaml(stream, overrides)
    columns = needed_labels(hparams["clap"], hparams["objective"], hparams["prompts"])
    hparams["label_encoders"] = label_encoders(columns, hparams["prompts"].words, [])
    brain = GEmoCLAPBrain(hparams["modules"], hparams["opt_class"], hparams, run_opts)
    brain.on_fit_start()
    brain.on_stage_start(Stage.TRAIN, 1)
    brain.modules.train()
    return brain


def step(brain: GEmoCLAPBrain, rows: dict) -> float:
    """Seconds of training on the first batch of an epoch."""
    options = {**brain.train_loader_options(rows), "collate_fn": PaddedBatch}
    noise = Noise(rows, brain.hparams.label_encoders)
    loader = brain.make_dataloader(noise, Stage.TRAIN, **options)
    batch = next(iter(loader))
    brain.step = 1
    wait = torch.cuda.synchronize if brain.device_type == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    brain.fit_batch(batch)
    wait()
    return time.perf_counter() - start


def work(options: Namespace) -> None:
    """Measure a row, in one of its processes, and write what was found."""
    logging.disable(logging.WARNING)
    torch.manual_seed(options.seed)
    if options.on_cpu:
        # What does not fit is an error then, and not the end of the machine.
        processes = int(os.environ.get("WORLD_SIZE", 1))
        limit = int(options.memory_limit * 2**30 / processes)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    brain = make_brain(options)
    # Under torchrun SpeechBrain wants two batches a process; the first is taken.
    factor = 2 * int(os.environ["WORLD_SIZE"]) if "WORLD_SIZE" in os.environ else 1
    size = brain.hparams.batch_size
    brain.hparams.batch_size = WARM_UP
    step(brain, make_rows(options, factor * WARM_UP))
    if not options.on_cpu:
        torch.cuda.reset_peak_memory_stats()
    brain.hparams.batch_size = size
    seconds = step(brain, make_rows(options, factor * size))
    rank = os.environ.get("RANK", "0")
    found = {"seconds": seconds, "peak": peak_memory(options)}
    (options.folder / f"{rank}.json").write_text(json.dumps(found))


def measure(options: Namespace, processes: int, way: str, size: int) -> dict[str, float] | None:
    """Figures of a row; None if it does not fit into memory."""
    for old in options.folder.glob("*.json"):
        old.unlink()
    arguments = ["--worker", options.folder, "--batch-size", size, "--size", options.size]
    arguments += ["--device", options.device, "--precision", options.precision]
    arguments += ["--duration-scale", options.duration_scale, "--seed", options.seed]
    arguments += ["--memory-limit", options.memory_limit]
    arguments += ["--durations", options.durations] if options.durations else []
    arguments += ["--micro-batch-size", options.micro_batch_size if way == CACHED else 0]
    arguments += ["--gradient-checkpointing"] if options.gradient_checkpointing else []
    launch = ["-m", "torch.distributed.run", f"--nproc_per_node={processes}"]
    launch += [f"--master_port={free_port()}"]
    threads = max(1, options.threads // processes)
    command = [sys.executable, *(launch if processes > 1 else []), __file__, *map(str, arguments)]
    ended = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": str(threads)}
    )
    found = [json.loads(path.read_text()) for path in options.folder.glob("*.json")]
    if len(found) < processes:
        lack = ("allocate memory", "out of memory", "MemoryError", "OutOfMemoryError")
        if any(words in ended.stderr for words in lack):
            return None
        raise RuntimeError(f"{processes} processes, {way}, batch of {size}:\n{ended.stderr}")
    return {key: max(of[key] for of in found) for key in ("seconds", "peak")}


def free_port() -> int:
    """Find a port that nobody listens at."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def parse(arguments: Sequence[str] | None) -> Namespace:
    """Read the command line, and the durations."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawTextHelpFormatter)
    add = parser.add_argument
    add("--size", choices=SHAPES, default="base")
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--precision", choices=("fp32", "bf16"), default="fp32")
    add("--batch-sizes", type=int, nargs="+", default=[32, 128, 512, 1024])
    add("--micro-batch-size", type=int, default=8)
    add("--processes", type=int, nargs="+", default=[1, 2])
    add("--gradient-checkpointing", action="store_true")
    add("--durations", type=Path, help="CSV file; default IEMOCAP's, else a log-normal sample")
    add("--column", default="duration", help="its column of seconds")
    add("--duration-scale", type=float, default=0.0625, help="factor on the waveforms' lengths")
    add("--memory-limit", type=float, default=16.0, help="GiB of all processes, on the CPU")
    add("--threads", type=int, default=torch.get_num_threads())
    add("--seed", type=int, default=1)
    # Of a process that measures a row.
    add("--worker", type=Path, metavar="FOLDER")
    add("--batch-size", type=int, default=32)
    options = parser.parse_args(arguments)
    options.on_cpu = options.device == "cpu"
    options.seconds, options.origin = read_seconds(options.durations, options.column, options.seed)
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure every row, print the table; 1 if the goal for memory is missed."""
    options = parse(arguments)
    if options.worker:
        options.folder, options.micro_batch_size = options.worker, options.micro_batch_size or None
        work(options)
        return 0
    started, lines, memory = time.monotonic(), [], {}
    with tempfile.TemporaryDirectory() as folder:
        options.folder, options.families, options.attention_dropout = Path(folder), ["wavlm"], 0.1
        save_models(options)
        for size in options.batch_sizes:
            for processes in options.processes:
                for way in (DIRECT, CACHED):
                    print(f"{size}, {processes} processes, {way}", file=sys.stderr)
                    found = measure(options, processes, way, size)
                    cells = ["does not fit", "", ""]
                    if found is not None:
                        cells = [f"{found['peak']:.0f}", f"{found['seconds']:.1f}"]
                        cells.append(f"{size / found['seconds']:.2f}")
                        memory[way, processes, size] = found["peak"]
                    lines.append([str(size), str(processes), way, *cells])
    device = f"{os.cpu_count()} cores" if options.on_cpu else torch.cuda.get_device_name()
    print(
        f"WavLM, {options.size}, random weights; {device}, {options.precision}; durations of "
        f"{options.origin} times {options.duration_scale:g}; micro-batches of "
        f"{options.micro_batch_size}; gradient checkpointing: {options.gradient_checkpointing}; "
        f"limit of {options.memory_limit:g} GiB\n"
    )
    print_table("batch | processes | way | peak MiB | s a step | utterances/s", lines)
    least, most, reached = min(options.batch_sizes), max(options.batch_sizes), True
    print()
    for processes in options.processes:
        found = [memory.get((CACHED, processes, size), math.inf) for size in (least, most)]
        times = found[1] / found[0]
        reached &= times <= GOAL
        print(
            f"- micro-batches, {processes} processes: memory at {most} over that at {least}: "
            f"{times:.2f}, goal at most {GOAL}: {'' if times <= GOAL else 'not '}reached"
        )
    print(f"\nThe run took {(time.monotonic() - started) / 60:.1f} minutes.")
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
