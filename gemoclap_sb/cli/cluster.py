"""``gemoclap cluster``: clusters of each speaker's utterances, of a manifest's embeddings.

The work is `gemoclap_sb.inference.cluster_job`'s.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from gemoclap_sb.cli import inputs, shares
from gemoclap_sb.cli.destinations import check_folder, writing
from gemoclap_sb.cli.errors import UsageError, usage_errors
from gemoclap_sb.cli.terminal import say

if TYPE_CHECKING:
    from gemoclap_sb.inference.cluster_job import ClusterJob

SUMMARY = "clusters of each speaker's utterances, of a manifest's embeddings"
DESCRIPTION = (
    "Cluster the utterances of each speaker by the embeddings that `gemoclap embed` wrote of the "
    "same manifest. Clusters of a speaker follow emotion (arXiv 2401.11017): what is pretrained "
    "on them needs no emotion label, and none is read. The folder says for each utterance its "
    "speaker and its cluster, numbered from 0 by falling size; speakers that are left out are "
    "listed in left_out.csv; clusters.json is written last. Several processes and machines can "
    "write the folder together, and an interrupted run goes on when the same command is given "
    "again. Meanwhile the folder has a copy of the embeddings."
)
EXAMPLES = """\
  gemoclap cluster corpus.csv --embeddings embeddings/ --output clusters/
  gemoclap cluster corpus.csv --embeddings embeddings/ --output clusters/ --clusters 4
  gemoclap cluster corpus.csv --embeddings embeddings/ --output clusters/ --shard 3/16
  gemoclap cluster corpus.csv --embeddings embeddings/ --output clusters/ --engine ray"""
_AUTO = "auto"
_MOST_NAMED = 3


def add_arguments(parser: ArgumentParser) -> None:
    """Add what the command takes."""
    add = parser.add_argument
    add("manifest", metavar="MANIFEST", help="the .csv file whose recordings were embedded")
    help = "the folder that `gemoclap embed MANIFEST` wrote"
    add("--embeddings", required=True, metavar="FOLDER", help=help)
    add("--output", required=True, metavar="FOLDER", help="where the clusters go")
    help = "the manifest's column of speakers (default: spk_id)"
    add("--speaker-column", default="spk_id", metavar="NAME", help=help)
    help = "k-means++ (default), or Ward's agglomeration, for speakers of up to 5,000 utterances"
    add("--method", choices=("kmeans", "agglomerative"), default="kmeans", help=help)
    help = (
        "of each speaker; auto (default): the number with the highest mean silhouette, over up to "
        "2,000 of the speaker's utterances"
    )
    add("--clusters", type=_clusters, metavar="N", help=help)
    help = "with --clusters auto: the most that are tried, and at most one for two utterances"
    add("--most-clusters", type=inputs.count, metavar="N", help=f"{help} (default: 8)")
    help = "a speaker with fewer is left out (default: two a cluster; 8 with --clusters auto)"
    add("--least-utterances", type=inputs.count, metavar="N", help=help)
    help = "of the starts of k-means and of the order of the rows (default: 1)"
    add("--seed", type=inputs.seed, default=1, metavar="N", help=help)
    help = (
        "files that speakers are divided among, each read as a whole (default: one for each 64 MB "
        "of embeddings); all shards must agree"
    )
    add("--files", type=inputs.count, metavar="N", help=help)
    shares.add_arguments(add, "one for each core")


def _clusters(text: str) -> int | None:
    return None if text == _AUTO else inputs.count(text, "auto, or 2 and more")


def run(options: Namespace, out: TextIO) -> int:
    """Cluster the share of the speakers that this process has."""
    shard = shares.checked_share(options)
    folder = check_folder("--output", options.output).absolute()
    from gemoclap_sb.inference.cluster_job import ClusterJob, files_for
    from gemoclap_sb.inference.embedded_manifest import open_embedded
    from gemoclap_sb.inference.speaker_clustering import ClusteringOptions

    with usage_errors():
        clustering = ClusteringOptions(
            options.method,
            options.clusters,
            options.most_clusters,
            options.least_utterances,
            options.seed,
        )
        embedded = open_embedded(options.manifest, options.embeddings, options.speaker_column)
    files, rows = options.files or files_for(embedded), embedded.manifest.rows
    if files > rows:
        raise UsageError(f"--files: expected at most {rows}, a file an utterance, found {files}.")
    job = ClusterJob(embedded, str(folder), clustering, files)
    again = " The same command goes on from what is finished."
    with usage_errors(), writing(folder, again):
        job.open_folder()
        _cluster(job, shard, options)
        record = job.finish()
    _tell(job, shard, record)
    return 0


def _cluster(job: ClusterJob, shard: tuple[int, int], options: Namespace) -> None:
    from tqdm import tqdm

    from gemoclap_sb.inference.speaker_shuffle import drop, shuffle

    mine = range(shard[0] - 1, job.files, shard[1])
    left = [number for number in mine if job.finished(number) is None]
    if kept := len(mine) - len(left):
        say(f"Going on from {kept} of {len(mine)} files in {job.folder}.")
    if not left:
        return
    shuffled, total = job.shuffled(shard), job.embedded.manifest.rows
    # None: on a terminal only.
    with tqdm(total=total, desc="shuffle", unit="row", disable=None) as bar:
        rows = shuffle(job.embedded, shuffled, job.files, left, bar.update)
    total = sum(rows[number] for number in left)
    with tqdm(total=total, desc="cluster", unit="row", disable=None) as bar:
        if options.engine == shares.RAY:
            from gemoclap_sb.inference.ray_clusters import cluster_with_ray

            for result in cluster_with_ray(job, left, shuffled, options.actors):
                bar.update(rows[result.number])
                drop(shuffled, result.number)
        else:
            for number in left:
                job.cluster(number, shuffled, bar.update)
                drop(shuffled, number)


def _tell(job: ClusterJob, shard: tuple[int, int], record: dict[str, Any] | None) -> None:
    if record is None:
        say(
            f"{job.folder}: the share {shard[0]}/{shard[1]} is finished; the one that finishes "
            "last writes clusters.json."
        )
        return
    say(
        f"{job.folder}: {record['utterances']} utterances of {record['speakers']} speakers in "
        f"{record['clusters']} clusters"
    )
    if without := record["without_embedding"]:
        say(f"{without} utterances of the manifest have no embedding, and so no cluster.")
    if count := record["left_out"]["speakers"]:
        few = [
            f"{one.speaker} ({one.reason})"
            for one, _ in zip(job.left_out(), range(_MOST_NAMED), strict=False)
        ]
        more = "" if count <= len(few) else ", ..."
        say(
            f"{count} speakers with {record['left_out']['utterances']} utterances are left out: "
            f"{', '.join(few)}{more}; they are listed in {Path(job.folder, 'left_out.csv')}."
        )
