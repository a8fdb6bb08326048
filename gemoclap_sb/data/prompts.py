"""Labels as sentences.

Each attribute (emotion, gender, ...) has a word for each class, and one or more
templates. A template has ``{}`` for its own word and may name other attributes:
``"a {gender} speaker sounds {}"``. In training the utterance's own labels fill it in; at
inference a class is described by all its sentences, one for each template and each word of
the other attributes, and their embeddings are averaged (prompt ensembling: Radford et al.,
CLIP, arXiv 2103.00020, section 3.1.4).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from string import Formatter

import torch


class Prompts:
    """Makes sentences of labels.

    Parameters
    ----------
    words : Mapping[str, Mapping[str, str]]
        ``{attribute: {label: word}}``. The order of the labels is that of the class indices.
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
        self.templates = {attribute: list(of) for attribute, of in templates.items()}
        for attribute, labels in (only or {}).items():
            self._keep(attribute, labels)
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

    def fields(self, attribute: str) -> list[str]:
        """Attributes that the templates of an attribute name, each once."""
        named = (f for t in self.templates.get(attribute, []) for f in _fields(attribute, t))
        return list(dict.fromkeys(named))

    def sentences(
        self, attribute: str, labels: Mapping[str, Sequence[str]], draw: bool = False
    ) -> list[str]:
        """One sentence per utterance, from N labels for each attribute that templates name.

        With ``draw``, as in training, each utterance's template is drawn at random (torch's
        generator); otherwise the first template serves all.
        """
        templates, count = self.templates[attribute], len(labels[attribute])
        if draw and len(templates) > 1:
            picks = torch.randint(len(templates), (count,)).tolist()
        else:
            picks = [0] * count
        sentences = []
        for i, pick in enumerate(picks):
            fields = _fields(attribute, templates[pick])
            filled = {field: self.words[field][labels[field][i]] for field in fields}
            sentences.append(_fill(attribute, templates[pick], filled))
        return sentences

    def class_sentences(self, attribute: str) -> list[list[str]]:
        """All sentences that describe each class, in the order of the indices."""
        return [self._describe(attribute, word) for word in self.words[attribute].values()]

    def asked(
        self,
        attribute: str,
        labels: Sequence[str] | Mapping[str, str] | None = None,
        templates: Sequence[str] | None = None,
    ) -> Prompts:
        """Prompts that ask for other words of an attribute, or in other sentences.

        A label of the attribute's own stands for its word, any other for itself; a mapping
        gives each label its word. ValueError if labels or templates cannot serve.

        Examples
        --------
        >>> own = Prompts({"emotion": {"ang": "angry", "sad": "sad"}}, {"emotion": ["so {}"]})
        >>> own.asked("emotion", ["ang", "bored"]).words["emotion"]
        {'ang': 'angry', 'bored': 'bored'}
        """
        for name, given in (("labels", labels), ("templates", templates)):
            if isinstance(given, str):
                raise ValueError(f"{name}: expected a list, found one string: {given!r}.")
            if given is not None and not isinstance(given, Sequence | Mapping):
                raise ValueError(f"{name}: expected a list, found {type(given).__name__}.")
            texts = given.values() if isinstance(given, Mapping) else given or ()
            if wrong := [text for text in texts if not isinstance(text, str) or not text.strip()]:
                raise ValueError(f"{name}: expected texts, found {wrong[0]!r}.")
        words = self.words[attribute]
        if isinstance(labels, Mapping):
            words = labels
        elif labels is not None:
            words = {label: words.get(label, label) for label in labels}
            if len(words) < len(labels):
                raise ValueError(f"labels: expected each label once, found {list(labels)}.")
        templates = self.templates[attribute] if templates is None else templates
        return Prompts({**self.words, attribute: words}, {attribute: templates})

    def to_config(self) -> dict[str, dict]:
        """Plain data from which ``Prompts(**config)`` makes the same object."""
        return {"words": self.words, "templates": self.templates}

    def _describe(self, attribute: str, word: str) -> list[str]:
        sentences = []
        for template in self.templates[attribute]:
            others = [field for field in _fields(attribute, template) if field != attribute]
            for combination in itertools.product(*(self.words[f].values() for f in others)):
                filled = dict(zip(others, combination, strict=True)) | {attribute: word}
                sentences.append(_fill(attribute, template, filled))
        return sentences

    def _keep(self, attribute: str, labels: Sequence[str] | None) -> None:
        words = self.words[attribute]
        unknown = [label for label in labels or () if label not in words]
        if unknown:
            raise ValueError(
                f"only[{attribute!r}]: no word for {unknown}; words are given for {list(words)}."
            )
        if labels is not None:
            self.words[attribute] = {label: words[label] for label in labels}

    def _check_template(self, attribute: str, template: str) -> None:
        where = f"templates[{attribute!r}], {template!r}"
        try:
            fields = _fields(attribute, template)
        except ValueError as error:
            raise ValueError(f"{where}: {error}; write a brace as '{{{{' or '}}}}'.") from error
        if attribute not in fields:
            raise ValueError(f"{where}: expected '{{}}' where the word goes.")
        for field in fields:
            if field not in self.words:
                raise ValueError(
                    f"{where}: names {field!r}, but words are given for {list(self.words)}."
                )


def _fields(attribute: str, template: str) -> list[str]:
    names = [name for _, name, _, _ in Formatter().parse(template) if name is not None]
    return list(dict.fromkeys(name or attribute for name in names))


def _fill(attribute: str, template: str, filled: Mapping[str, str]) -> str:
    # Joined piece by piece: str.format would follow attributes and indices of a template
    # that came with somebody's model.
    return "".join(
        literal + ("" if name is None else filled[name or attribute])
        for literal, name, _, _ in Formatter().parse(template)
    )
