"""What a million hours of speech cost: core-hours, bytes read and stored, which limit comes first.

Nothing is measured here. The speed is what `benchmarks/engines.py` (or a GPU) gave, the rest is
arithmetic on the options, so that each figure of `docs/scaling.md` has a command.

    python benchmarks/million_hours.py --speed 100
    python benchmarks/million_hours.py --speed 100 --cores 1000 --read-gb 2 --dimension 512
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, RawTextHelpFormatter
from collections.abc import Sequence
from dataclasses import dataclass

SECONDS = 3600
TB, GB = 1e12, 1e9
PCM_BYTES = 2


@dataclass(frozen=True)
class Corpus:
    """Speech in recordings of the same length, and the vectors that are made of it.

    ``hours`` in all, ``utterance`` seconds of each recording, ``dimension`` numbers a vector,
    ``hop`` seconds between frames, ``rate`` in Hz, ``compressed`` bytes for one of PCM.
    """

    hours: float = 1e6
    utterance: float = 5.0
    dimension: int = 1024
    hop: float = 0.02
    rate: int = 16000
    compressed: float = 1.0

    @property
    def seconds(self) -> float:
        """Of speech."""
        return self.hours * SECONDS

    @property
    def recordings(self) -> float:
        """How many there are."""
        return self.seconds / self.utterance

    def bytes_in(self) -> float:
        """Of the recordings as they are stored."""
        return self.seconds * self.rate * PCM_BYTES * self.compressed

    def bytes_out(self, number: int, frames: bool) -> float:
        """Of the vectors, with numbers of so many bytes: one a frame, or one a recording."""
        vectors = self.seconds / self.hop if frames else self.recordings
        return vectors * self.dimension * number


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line and print the tables."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawTextHelpFormatter)
    add = parser.add_argument
    help = "measured hours of audio that a core (or a GPU) embeds in an hour"
    add("--speed", type=float, required=True, help=help)
    add("--cores", type=int, nargs="+", default=[1, 64, 1000, 10000], help="or GPUs")
    add("--hours", type=float, default=Corpus.hours)
    add("--utterance", type=float, default=Corpus.utterance, help="seconds of a recording")
    add("--dimension", type=int, default=Corpus.dimension)
    add("--compressed", type=float, default=Corpus.compressed, help="bytes for one of PCM")
    add("--read-gb", type=float, default=1.0, help="GB/s that the storage reads, for all together")
    options = parser.parse_args(arguments)
    given = vars(options)
    names = ("hours", "utterance", "dimension", "compressed")
    corpus = Corpus(**{name: given[name] for name in names})

    print(
        f"{corpus.hours:,.0f} h in {corpus.recordings:,.0f} recordings of {corpus.utterance:g} s, "
        f"{corpus.dimension} numbers a vector\n"
    )
    print("| bytes | TB |")
    print("| --- | ---: |")
    print(f"| audio, {corpus.rate // 1000} kHz, 16 bit | {corpus.bytes_in() / TB:,.1f} |")
    for frames, what in ((True, f"frames, each {1000 * corpus.hop:g} ms"), (False, "one vector")):
        for size, kind in ((4, "float32"), (2, "float16")):
            print(f"| {what}, {kind} | {corpus.bytes_out(size, frames) / TB:,.2f} |")
    work = corpus.hours / options.speed
    reading = corpus.bytes_in() / corpus.hours * options.speed / SECONDS
    most = options.read_gb * GB / reading
    print(f"\n{work:,.0f} core-hours at {options.speed:g} h of audio an hour on each core, which")
    print(
        f"reads {reading / 1e6:.2f} MB/s. Storage that reads {options.read_gb:g} GB/s feeds "
        f"{most:,.0f} cores.\n"
    )
    print("| cores | days | GB/s read | recordings/s opened | limit |")
    print("| ---: | ---: | ---: | ---: | --- |")
    for cores in options.cores:
        at_work = min(cores, most)
        days = work / at_work / 24
        opened = corpus.recordings / (days * 24 * SECONDS)
        limit = "storage" if most < cores else "the model"
        print(f"| {cores} | {days:,.1f} | {at_work * reading / GB:.3f} | {opened:,.0f} | {limit} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
