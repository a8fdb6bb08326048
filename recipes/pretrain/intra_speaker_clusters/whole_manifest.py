#!/usr/bin/env python3
"""One manifest of a whole corpus that this package can prepare.

python whole_manifest.py nemo /corpora/nEMO nemo.csv
"""

import sys
import tempfile
from pathlib import Path

import pandas as pd

from gemoclap_sb.data.arguments import OneLineParser
from gemoclap_sb.data.corpora.iemocap import prepare_iemocap
from gemoclap_sb.data.corpora.nemo import prepare_nemo
from gemoclap_sb.data.corpora.ravdess import prepare_ravdess
from gemoclap_sb.data.preparation import SPLITS
from gemoclap_sb.files import atomic_path

PREPARE = {"iemocap": prepare_iemocap, "nemo": prepare_nemo, "ravdess": prepare_ravdess}


def write_manifest(corpus: str, data_folder: str, path: str | Path) -> None:
    """Write the rows of a fold's three manifests into one, sorted by ID, whole or not at all."""
    with tempfile.TemporaryDirectory() as folder:
        found = PREPARE[corpus](data_folder, folder, 1)
        parts = [
            pd.read_csv(found[f"{split}_csv"], dtype=str, keep_default_na=False) for split in SPLITS
        ]
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(Path(path)) as temporary:
        pd.concat(parts).sort_values("ID").to_csv(temporary, index=False)


def main() -> int:
    """Read the command line; the exit status."""
    parser = OneLineParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", choices=sorted(PREPARE))
    parser.add_argument("data_folder")
    parser.add_argument("out", help="the .csv file to write")
    options = parser.parse_args()
    try:
        write_manifest(options.corpus, options.data_folder, options.out)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
