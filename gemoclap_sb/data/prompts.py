"""Class labels and attribute labels as sentences.

Each attribute (emotion, gender, ...) has classes, a word for each, and one or
more templates. The order of the words is the order of the class indices
everywhere in the package.

A template has ``{}`` for its own word and may name other attributes:
``"a {gender} speaker sounds {}"``. In training the utterance's own labels fill
it in; at inference a class is described by all its sentences, one for each
template and each word of the other attributes, and their embeddings are
averaged (prompt ensembling: Radford et al., CLIP, arXiv 2103.00020, section
3.1.4).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from string import Formatter

import torch
from torch import LongTensor


class Prompts:
    """Turns labels into indices and into sentences.

    Parameters
    ----------
    words : Mapping[str, Mapping[str, str]]
        ``{attribute: {label: word}}``.
    templates : Mapping[str, Sequence[str]]
        ``{attribute: [template, ...]}`` for the attributes that have prompts.
    only : Mapping[str, Sequence[str] | None], optional
        ``{attribute: labels}`` to keep, in this order; None keeps all.

    Raises
    ------
    ValueError
        If a template is missing its own ``{}``, names an unknown attribute,
        two labels of an attribute share a word, or ``only`` names an unknown label.

    Examples
    --------
    >>> prompts = Prompts(
    ...     words={
    ...         "emotion": {"ang": "angry", "sad": "sad"},
    ...         "gender": {"F": "female", "M": "male"},
    ...     },
    ...     templates={"emotion": ["this person sounds {}"], "gender": ["a {} speaker"]},
    ... )
    >>> prompts.labels("emotion")
    ['ang', 'sad']
    >>> prompts.encode("emotion", ["sad", "ang"])
    tensor([1, 0])
    >>> prompts.sentences("gender", {"gender": ["M"]})
    ['a male speaker']
    >>> prompts.class_sentences("emotion")
    [['this person sounds angry'], ['this person sounds sad']]
    """

    def __init__(
        self,
        words: Mapping[str, Mapping[str, str]],
        templates: Mapping[str, Sequence[str]],
        only: Mapping[str, Sequence[str] | None] | None = None,
    ) -> None:
        self.words = {
            attribute: {str(label): str(word) for label, word in of.items()}
            for attribute, of in words.items()
        }
        for attribute, labels in (only or {}).items():
            if labels is not None:
                self.words[attribute] = self._kept(attribute, labels)
        self.templates = {attribute: list(of) for attribute, of in templates.items()}
        for attribute, of in self.words.items():
            if len(of) < 2:
                raise ValueError(
                    f"words[{attribute!r}]: expected two classes or more, found {sorted(of)}."
                )
            if len(set(of.values())) < len(of):
                raise ValueError(
                    f"words[{attribute!r}]: two labels share a word, so no text could tell "
                    f"them apart: {of}."
                )
        for attribute, of in self.templates.items():
            if not of:
                raise ValueError(f"templates[{attribute!r}]: expected at least one template.")
            for template in of:
                self._check_template(attribute, template)

    @property
    def attributes(self) -> tuple[str, ...]:
        """The attributes that have words, in order."""
        return tuple(self.words)

    @property
    def classes(self) -> dict[str, list[str]]:
        """Labels per attribute, in the order of their indices."""
        return {attribute: list(of) for attribute, of in self.words.items()}

    def labels(self, attribute: str) -> list[str]:
        """Labels of an attribute, in the order of their indices."""
        return list(self._words_of(attribute))

    def fields(self, attribute: str) -> list[str]:
        """Attributes that the templates of an attribute name, each once."""
        named = (f for t in self.templates.get(attribute, []) for f in self._fields(attribute, t))
        return list(dict.fromkeys(named))

    def encode(self, attribute: str, labels: Sequence[str]) -> LongTensor:
        """Class indices of labels.

        Parameters
        ----------
        attribute : str
            The attribute that the labels belong to.
        labels : Sequence[str]
            N labels.

        Returns
        -------
        LongTensor
            ``[N]``.

        Raises
        ------
        ValueError
            If a label is not one of the attribute's.
        """
        index = {label: i for i, label in enumerate(self._words_of(attribute))}
        unknown = sorted(set(labels) - set(index))
        if unknown:
            raise ValueError(
                f"{attribute}: expected labels among {list(index)}, found {unknown}. "
                f"Add a word for it under words[{attribute!r}], or leave those utterances out."
            )
        return torch.tensor([index[label] for label in labels], dtype=torch.long)

    def sentences(
        self, attribute: str, labels: Mapping[str, Sequence[str]], draw: bool = False
    ) -> list[str]:
        """One sentence per utterance.

        Parameters
        ----------
        attribute : str
            The attribute to describe.
        labels : Mapping[str, Sequence[str]]
            N labels for each attribute that the templates name.
        draw : bool
            Draw each utterance's template at random (torch's generator), as in
            training; otherwise the first template serves all.

        Returns
        -------
        list of str
            N sentences.
        """
        templates = self._templates_of(attribute)
        count = len(labels[attribute])
        if draw and len(templates) > 1:
            picks = torch.randint(len(templates), (count,)).tolist()
        else:
            picks = [0] * count
        sentences = []
        for i, pick in enumerate(picks):
            template = templates[pick]
            filled = {
                field: self._words_of(field)[labels[field][i]]
                for field in self._fields(attribute, template)
            }
            sentences.append(self._fill(attribute, template, filled))
        return sentences

    def class_sentences(self, attribute: str) -> list[list[str]]:
        """All sentences that describe each class, for inference.

        Parameters
        ----------
        attribute : str
            The attribute to describe.

        Returns
        -------
        list of list of str
            A list per class, in the order of the indices.
        """
        return [self.describe(attribute, word) for word in self._words_of(attribute).values()]

    def describe(self, attribute: str, word: str) -> list[str]:
        """All sentences that say a word of an attribute, which need not be a class.

        Examples
        --------
        >>> prompts = Prompts({"emotion": {"ang": "angry", "sad": "sad"}}, {"emotion": ["so {}"]})
        >>> prompts.describe("emotion", "bored")
        ['so bored']
        """
        sentences = []
        for template in self._templates_of(attribute):
            others = [f for f in self._fields(attribute, template) if f != attribute]
            for combination in itertools.product(*(self._words_of(f).values() for f in others)):
                filled = dict(zip(others, combination, strict=True)) | {attribute: word}
                sentences.append(self._fill(attribute, template, filled))
        return sentences

    def to_config(self) -> dict[str, dict]:
        """Plain data from which ``Prompts(**config)`` makes the same object."""
        return {"words": self.words, "templates": self.templates}

    def _fields(self, attribute: str, template: str) -> list[str]:
        names = [name for _, name, _, _ in Formatter().parse(template) if name is not None]
        return list(dict.fromkeys(name or attribute for name in names))

    def _fill(self, attribute: str, template: str, filled: Mapping[str, str]) -> str:
        # Joined piece by piece: str.format would follow attributes and indices
        # of a template that came with somebody's model.
        return "".join(
            literal + ("" if name is None else filled[name or attribute])
            for literal, name, _, _ in Formatter().parse(template)
        )

    def _check_template(self, attribute: str, template: str) -> None:
        where = f"templates[{attribute!r}], {template!r}"
        try:
            fields = self._fields(attribute, template)
        except ValueError as error:
            raise ValueError(f"{where}: {error}; write a brace as '{{{{' or '}}}}'.") from error
        if attribute not in fields:
            raise ValueError(f"{where}: expected '{{}}' where the word goes.")
        for field in fields:
            if field not in self.words:
                raise ValueError(
                    f"{where}: names {field!r}, but words are given for {list(self.words)}."
                )

    def _kept(self, attribute: str, labels: Sequence[str]) -> dict[str, str]:
        words = self._words_of(attribute)
        unknown = [label for label in labels if label not in words]
        if unknown:
            raise ValueError(
                f"only[{attribute!r}]: no word for {unknown}; words are given for {list(words)}."
            )
        return {label: words[label] for label in labels}

    def _words_of(self, attribute: str) -> dict[str, str]:
        if attribute not in self.words:
            raise KeyError(f"no words for attribute {attribute!r}; given: {list(self.words)}.")
        return self.words[attribute]

    def _templates_of(self, attribute: str) -> list[str]:
        if attribute not in self.templates:
            raise KeyError(
                f"no templates for attribute {attribute!r}; given: {list(self.templates)}."
            )
        return self.templates[attribute]
