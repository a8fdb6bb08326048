"""Command lines whose errors are one line: of preparation, training and the command."""

from __future__ import annotations

import argparse
from typing import NoReturn

from gemoclap_sb.data.csv_rows import printable


class OneLineParser(argparse.ArgumentParser):
    """An ``ArgumentParser`` that tells of a wrong option in one line, exit status 2."""

    def error(self, message: str) -> NoReturn:
        """End the process with the message, without the block of usage."""
        said = printable(message).replace("\n", "\\n")
        self.exit(2, f"{self.prog}: {said}. `{self.prog} --help` says more.\n")
