"""What is wrong with a model's description, in one line of bounded length."""

from __future__ import annotations


class ConfigurationError(ValueError):
    """A model that cannot be described, or a description that cannot be followed."""


def shortened(text: str, most: int = 200) -> str:
    """Give a text as one line of what can be printed, and of a long one its beginning.

    Examples
    --------
    >>> shortened("two" + chr(10) + "lines"), shortened("a long one", 6)
    ('two lines', 'a long...')
    """
    text = " ".join(text[: 4 * most].split())
    # An escape sequence would be carried out by the terminal.
    text = "".join(
        letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text
    )
    return text if len(text) <= most else f"{text[:most]}..."


def shown(value: object, most: int = 100) -> str:
    """Give a value's repr as `shortened` does."""
    return shortened(repr(value), most)
