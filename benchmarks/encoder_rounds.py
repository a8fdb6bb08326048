"""The rows of the encoder benchmark, and the rounds in which they are measured by turns."""

from __future__ import annotations

import dataclasses
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from encoder_processes import OutOfMemory, in_child
from encoder_steps import Measurement, Setting, Variant, measure

STOCK, ALL = "stock path", "all together"
_SMALLER_BATCHES = (24, 16, 12, 8, 6, 4, 3, 2, 1)


@dataclass
class Row:
    """A variant, and what it is to be held against.

    Attributes
    ----------
    variant : Variant
        What is measured.
    gains : tuple of (str, str)
        Each a piece, and the row that lacks this piece only.
    infer : bool
        Whether inference differs from the rows before.
    compare : bool
        Whether embeddings alone and in a batch are compared.
    """

    variant: Variant
    gains: tuple[tuple[str, str], ...] = ()
    infer: bool = True
    compare: bool = False


def all_together(family: str, batch_size: int) -> Variant:
    """Every piece at once, as the project's experiments have it."""
    attention = "sdpa" if family == "wavlm" else "auto"
    return Variant(
        ALL, "ours", attention, "pooled", "distinct", front_end="frozen", batch_size=batch_size
    )


def rows_of(
    family: str, device: str, full: bool, gradient_checkpointing: bool, batch_size: int
) -> list[Row]:
    """List the rows of a family.

    Parameters
    ----------
    family : str
        One of `encoder_models.FAMILIES`.
    device : str
        `flex` trains on `cuda` only.
    full : bool
        A row for each piece, or the stock path and all together only.
    gradient_checkpointing : bool
        Add a row with it.
    batch_size : int
        Utterances per batch.

    Returns
    -------
    list of Row
        The stock path first.
    """
    wavlm = family == "wavlm"
    flex = wavlm and device == "cuda"
    # transformers has nothing but eager for WavLM, and takes sdpa by itself for the others.
    theirs = "eager" if wavlm else "sdpa"
    stock = Variant(STOCK, attention=theirs, batch_size=batch_size)
    together = all_together(family, batch_size)
    lobe = dataclasses.replace(stock, name="our lobe", lobe="ours")
    change = dataclasses.replace
    rows = [Row(stock, compare=True)]
    if full:
        rows.append(Row(lobe, (("lobe, pooling, text lobe", STOCK),), compare=True))
        if wavlm:
            gain = ("attention: eager to sdpa", "our lobe")
            rows.append(Row(change(lobe, name="sdpa", attention="sdpa"), (gain,)))
        if flex:
            variant = change(lobe, name="flex", attention="flex", attention_dropout=0.0)
            rows.append(Row(variant, (("attention: eager to flex, no dropout", "our lobe"),)))
        rows += [
            Row(
                change(stock, name="sampler", batching="pooled"),
                (("sampler: random to length-pooled", STOCK),),
            ),
            Row(
                change(stock, name="prompts", prompts="distinct"),
                (("prompts: all to distinct", STOCK),),
                infer=False,
            ),
            Row(
                change(stock, name="freezing, stock", front_end="no gradient"),
                (("front end: trained to requires_grad=False", STOCK),),
                infer=False,
            ),
            Row(
                change(lobe, name="freezing", front_end="frozen"),
                (
                    ("front end: trained to frozen without a graph", "our lobe"),
                    ("front end: requires_grad=False to no graph", "freezing, stock"),
                ),
                infer=False,
            ),
            Row(
                change(together, name="all but freezing", front_end="trained"),
                (("all but freezing: the same weights trained", STOCK),),
                infer=False,
            ),
        ]
    rows.append(Row(together, (("all together", STOCK),), compare=True))
    if flex:
        variant = change(together, name=f"{ALL}, flex", attention="flex", attention_dropout=0.0)
        rows.append(Row(variant, (("all together, flex, no attention dropout", STOCK),)))
    if gradient_checkpointing:
        variant = change(together, name=f"{ALL}, checkpointed", gradient_checkpointing=True)
        rows.append(Row(variant, (("gradient checkpointing", ALL),), infer=False))
    return rows


class Rounds:
    """Measures rows by turns and keeps the figures.

    Parameters
    ----------
    setting : Setting
        What all rows share.
    rows : dict of list of Row
        Per family.
    folder : Path
        Holds a model per family.

    Attributes
    ----------
    rows : dict of list of Row
        As given, with the batch sizes that fitted.
    results : dict of dict of list of Measurement
        Per family and row, one per round.
    shortages : list of str
        Where memory did not suffice.
    """

    def __init__(self, setting: Setting, rows: dict[str, list[Row]], folder: Path) -> None:
        self.setting = setting
        self.rows = rows
        self.folder = folder
        self.results: dict[str, dict[str, list[Measurement]]] = {
            family: {row.variant.name: [] for row in of} for family, of in rows.items()
        }
        self.shortages: list[str] = []

    def run(self, rounds: int, deadline: float) -> None:
        """Measure.

        Parameters
        ----------
        rounds : int
            At most so many.
        deadline : float
            In `time.monotonic`'s seconds: after the first, no round of a family starts that
            would pass it.
        """
        taken: dict[str, float] = {}
        for number in range(1, rounds + 1):
            for family in self.rows:
                start = time.monotonic()
                if number > 1 and start + taken[family] > deadline:
                    print(f"{family}: no time for round {number}", file=sys.stderr)
                    continue
                self._round(family, number)
                taken[family] = time.monotonic() - start

    def _round(self, family: str, number: int) -> None:
        # By index: a shortage of the stock path appends a row.
        position = 0
        while position < len(self.rows[family]):
            row = self.rows[family][position]
            wanted = row.variant.batch_size
            measurement = self._fitting(family, row, compare=row.compare and number == 1)
            self.results[family].setdefault(row.variant.name, []).append(measurement)
            if row.variant.name == STOCK and row.variant.batch_size < wanted:
                size = row.variant.batch_size
                variant = dataclasses.replace(
                    all_together(family, size), name=f"{ALL}, batch {size}"
                )
                self.rows[family].append(Row(variant, ((f"all together at batch {size}", STOCK),)))
            print(
                f"{family}, round {number}, {row.variant.name}: "
                f"{measurement.training:.2f} utterances/s of training",
                file=sys.stderr,
            )
            position += 1

    def _fitting(self, family: str, row: Row, compare: bool) -> Measurement:
        """Measure at the largest batch size that fits, which the row then keeps."""
        folder = str(self.folder / family)
        wanted = row.variant.batch_size
        for size in (wanted, *(smaller for smaller in _SMALLER_BATCHES if smaller < wanted)):
            row.variant = dataclasses.replace(row.variant, batch_size=size)
            try:
                measurement = in_child(
                    measure, self.setting, row.variant, family, folder, row.infer, compare
                )
            except OutOfMemory:
                continue
            if size < wanted:
                self.shortages.append(
                    f"{family}, {row.variant.name}: batches of {wanted} ran out of memory, the "
                    f"largest tried that fits is {size}"
                )
            return measurement
        raise OutOfMemory(f"{family}, {row.variant.name}: not even one utterance fits the device")
