"""Clusters of speakers at scale: a million utterances, brought together, clustered and drawn from.

    python benchmarks/speaker_clusters.py
    python benchmarks/speaker_clusters.py --utterances 20000 --speakers 200   # to try it

A synthetic manifest, whose speakers are scattered over all of its rows, and its embeddings are
written by the package's own writer into a temporary folder: four groups a speaker, and noise. A
tenth of it comes first, then the whole. Each time a fresh process does what one of `gemoclap
cluster` does, `--clusters 4`: it reads the manifest, shuffles the rows to files of speakers, and
clusters these; its peak memory is that of the resident set, beside what it has before any data.
Another fresh process opens the result and draws rows, and batches of training: 16 speakers, two
clusters of each, two utterances of each of these.

The number of clusters that `--clusters auto` finds costs more: its speakers/s are measured on
`--sample` speakers of as many utterances as they have in the whole.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace, RawTextHelpFormatter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from encoder_tables import print_table
from threadpoolctl import threadpool_limits

from gemoclap_sb.data.cluster_sampler import (
    TRAIN,
    ClusterBatchSampler,
    drawn_speakers,
    split_clusters,
)
from gemoclap_sb.data.parts import cut_manifest
from gemoclap_sb.data.speaker_clusters import SpeakerClusters, read_clusters
from gemoclap_sb.inference.cluster_job import ClusterJob, files_for
from gemoclap_sb.inference.embedded_manifest import open_embedded
from gemoclap_sb.inference.shards import EmbeddingJob
from gemoclap_sb.inference.speaker_clustering import ClusteringOptions, cluster_speaker
from gemoclap_sb.inference.speaker_shuffle import shuffle

GROUPS, NOISE = 4, 0.05
DRAWN, BATCHES = 10_000, 500
# Speakers of a batch, clusters of each, utterances of each of these.
SHAPE = 16, 2, 2
MIB = 2**20


def make_vectors(centres: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Make unit vectors, one around each of ``[N, D]`` centres."""
    vectors = centres + NOISE * rng.standard_normal(centres.shape, np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def make_centres(speakers: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """Make directions of each speaker's groups, ``[S, GROUPS, D]``, of length 1."""
    centres = rng.standard_normal((speakers, GROUPS, size), np.float32)
    return centres / np.linalg.norm(centres, axis=2, keepdims=True)


def write_corpus(folder: Path, utterances: int, speakers: int, options: Namespace) -> None:
    """Write a manifest and its embeddings."""
    rng = np.random.default_rng((options.seed, utterances))
    who = rng.integers(speakers, size=utterances)
    with open(folder / "all.csv", "w", encoding="utf-8") as file:
        file.write("ID,wav,spk_id\n")
        for row, speaker in enumerate(who.tolist()):
            name = f"speaker_{speaker:06d}/utterance_{row:08d}"
            file.write(f"{name},$data_root/{name}.wav,speaker_{speaker:06d}\n")
    manifest = cut_manifest(folder / "all.csv", audio=False)
    job = EmbeddingJob(manifest, str(folder / "embeddings"), "none", "emotion")
    job.open_folder()
    centres, start = make_centres(speakers, options.size, rng), 0
    for part in manifest.parts:
        of = who[start : start + part.rows]
        vectors = make_vectors(centres[of, rng.integers(GROUPS, size=len(of))], rng)
        job.write(part, [name for name, *_ in manifest.cells(part)], vectors, [])
        start += part.rows


def peak_memory() -> float:
    """Of this process, in MiB."""
    status = Path("/proc/self/status")
    if status.exists():
        # On Linux ru_maxrss begins with what the parent has.
        [line] = [of for of in status.read_text().splitlines() if of.startswith("VmHWM")]
        return int(line.split()[1]) / 2**10
    unit = MIB if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def cluster(folder: Path) -> dict[str, float]:
    """Cluster a corpus in this process, and say how long each step takes."""
    # Loaded before it is needed, so that it is not taken for memory of the data.
    cluster_speaker(np.eye(2, dtype=np.float32), "", ClusteringOptions(clusters=2))
    before, times = peak_memory(), [time.perf_counter()]
    embedded = open_embedded(folder / "all.csv", folder / "embeddings")
    options = ClusteringOptions(clusters=GROUPS)
    job = ClusterJob(embedded, str(folder / "clusters"), options, files_for(embedded))
    job.open_folder()
    times.append(time.perf_counter())
    rows = shuffle(embedded, job.shuffled((1, 1)), job.files, range(job.files), lambda count: None)
    times.append(time.perf_counter())
    after_shuffle = peak_memory()
    for number in range(job.files):
        job.cluster(number, job.shuffled((1, 1)))
    record = job.finish()
    times.append(time.perf_counter())
    opening, shuffling, clustering = np.diff(times).tolist()
    return {
        "rows": sum(rows.values()),
        "files": job.files,
        "speakers": record["speakers"],
        "opening": opening,
        "shuffling": shuffling,
        "clustering": clustering,
        "before": before,
        "after_shuffle": after_shuffle,
        "peak": peak_memory(),
    }


def draw(folder: Path) -> dict[str, float]:
    """Open clusters in this process, and draw rows at random."""
    before, start = peak_memory(), time.perf_counter()
    clusters = read_clusters(folder / "clusters")
    opening = time.perf_counter() - start
    found = draw_rows(clusters, np.random.default_rng(1)) | draw_batches(clusters)
    return {"opening": opening, **found, "before": before, "peak": peak_memory()}


def draw_rows(clusters: SpeakerClusters, rng: np.random.Generator) -> dict[str, float]:
    """Draw single rows, anywhere."""
    places = rng.integers(len(clusters), size=DRAWN)
    start = time.perf_counter()
    for place in places.tolist():
        clusters.row(place)
    return {"rows": DRAWN / (time.perf_counter() - start)}


def draw_batches(clusters: SpeakerClusters) -> dict[str, float]:
    """Make the sampler of training, draw batches and look up their rows; no audio is read."""
    start = time.perf_counter()
    parts = split_clusters(clusters, 0.1, seed=1)[TRAIN]
    speakers, *shape = SHAPE
    speakers = min(speakers, drawn_speakers(parts))
    sampler = ClusterBatchSampler(parts, speakers, *shape, num_replicas=1)
    made = time.perf_counter()
    for number in range(BATCHES):
        for place in sampler.draw(1, number):
            clusters.row(place)
    return {"sampler": made - start, "batches": BATCHES / (time.perf_counter() - made)}


def choose_numbers(options: Namespace) -> float:
    """Measure speakers a second, of which the number of clusters is chosen."""
    rng = np.random.default_rng(options.seed)
    each = max(1, options.utterances // options.speakers)
    spoken = []
    for centres in make_centres(options.sample, options.size, rng):
        spoken.append(make_vectors(centres[rng.integers(GROUPS, size=each)], rng))
    clustering = ClusteringOptions()
    start = time.perf_counter()
    with threadpool_limits(1):
        for number, vectors in enumerate(spoken):
            cluster_speaker(vectors, str(number), clustering)
    return options.sample / (time.perf_counter() - start)


STEPS = {"cluster": cluster, "draw": draw}


def fresh(step: str, folder: Path) -> dict[str, float]:
    """Do a step in a process of its own."""
    command = [sys.executable, __file__, "--worker", step, str(folder)]
    ended = subprocess.run(command, capture_output=True, text=True)
    if ended.returncode:
        raise RuntimeError(f"{step} of {folder}:\n{ended.stderr}")
    return json.loads(ended.stdout.splitlines()[-1])


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure a tenth and the whole, and print the tables."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawTextHelpFormatter)
    add = parser.add_argument
    add("--utterances", type=int, default=1_000_000)
    add("--speakers", type=int, default=10_000)
    add("--size", type=int, default=192, help="numbers of an embedding")
    add("--sample", type=int, default=100, help="speakers, for --clusters auto")
    add("--seed", type=int, default=1)
    add("--folder", type=Path, help="for the temporary files: a few GB for a million utterances")
    # Of a process that does one step.
    add("--worker", nargs=2, metavar=("STEP", "FOLDER"))
    options = parser.parse_args(arguments)
    if options.worker:
        step, folder = options.worker
        print(json.dumps(STEPS[step](Path(folder))))
        return 0
    made, drawn = [], []
    for part in (10, 1):
        utterances, speakers = options.utterances // part, max(1, options.speakers // part)
        with tempfile.TemporaryDirectory(dir=options.folder) as name:
            print(f"{utterances} utterances", file=sys.stderr)
            write_corpus(Path(name), utterances, speakers, options)
            made.append(fresh("cluster", Path(name)))
            drawn.append(fresh("draw", Path(name)))
    print(
        f"{options.size} numbers an embedding, {GROUPS} clusters a speaker; one process, "
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}\n"
    )
    header = "utterances | speakers | files | manifest s | shuffle rows/s | cluster speakers/s | "
    print_table(
        f"{header}before data MiB | peak to the shuffle's end MiB | peak MiB",
        [
            [
                f"{of['rows']}",
                f"{of['speakers']}",
                f"{of['files']}",
                f"{of['opening']:.1f}",
                f"{of['rows'] / of['shuffling']:.0f}",
                f"{of['speakers'] / of['clustering']:.1f}",
                *(f"{of[key]:.0f}" for key in ("before", "after_shuffle", "peak")),
            ]
            for of in made
        ],
    )
    print()
    print_table(
        "utterances | opened in s | rows/s | sampler made in s | batches/s | before data MiB | "
        "peak MiB",
        [
            [
                f"{made[i]['rows']}",
                f"{of['opening']:.3f}",
                f"{of['rows']:.0f}",
                f"{of['sampler']:.3f}",
                f"{of['batches']:.0f}",
                *(f"{of[key]:.0f}" for key in ("before", "peak")),
            ]
            for i, of in enumerate(drawn)
        ],
    )
    print(f"\nPeak memory at ten times as much: {made[1]['peak'] / made[0]['peak']:.2f} times.")
    each = max(1, options.utterances // options.speakers)
    print(
        f"--clusters auto: {choose_numbers(options):.1f} speakers/s of {each} utterances each, "
        "in one thread"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
