"""The README of an exported model: what it is, what it scored, how to load it.

The front matter is the hub's (https://huggingface.co/docs/hub/model-cards), so that
the results show there; the text follows Mitchell et al., "Model Cards for Model
Reporting", arXiv 1810.03993.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from gemoclap_sb.evaluation.metrics import ClassificationMetrics
from gemoclap_sb.models.configuration import build_prompts

TAGS = ["speech-emotion-recognition", "audio-classification", "zero-shot-audio-classification",
        "contrastive-learning", "gemo-clap", "speechbrain"]  # fmt: skip


def model_card(
    config: Mapping[str, Any],
    name: str,
    *,
    license: str | None = None,
    datasets: Sequence[str] = (),
    language: str | None = None,
) -> str:
    """Write a model card.

    Parameters
    ----------
    config : Mapping
        An export's ``config.json``.
    name : str
        The model's name.
    license : str, optional
        SPDX identifier in lower case. Without one the card says that none was chosen.
    datasets : Sequence[str]
        Data that it was trained on, as the hub calls them.
    language : str, optional
        Language code of the data.

    Returns
    -------
    str
        Markdown with YAML front matter.
    """
    metrics = config.get("metrics")
    data = ModelCardData(
        library_name="speechbrain",
        license=license or "other",
        license_name=None if license else "not-chosen",
        language=language,
        tags=TAGS,
        datasets=list(datasets) or None,
        metrics=["accuracy", "recall"],
        pipeline_tag="audio-classification",
        model_name=name if metrics else None,
        eval_results=_results(metrics, datasets) if metrics else None,
    )
    head = config["model"]["heads"][0]
    prompts = build_prompts(config)
    classes = zip(prompts.labels(head), prompts.class_sentences(head), strict=True)
    rows = [
        f"| `{label}` | {_cell(prompts.words[head][label])} | {_cell('; '.join(sentences))} |"
        for label, sentences in classes
    ]
    encoders = ", ".join(
        f"{entry['config'].get('model', {}).get('model_type', entry['class'])} ({part})"
        for part, entry in (
            ("audio", config["model"]["audio_encoder"]),
            ("text", config["model"]["text_encoder"]),
        )
    )
    return _CARD.format(
        front_matter=data.to_yaml(),
        name=name,
        encoders=encoders,
        embedding_size=config["model"]["embedding_size"],
        sample_rate=config["sample_rate"],
        longest=config["longest_seconds"],
        head=head,
        classes="\n".join(rows),
        results=_results_text(metrics),
        data=", ".join(datasets) or "not stated when the model was exported",
        terms=(
            f"Licence: {license}."
            if license
            else "No licence was chosen when the model was exported: ask its author."
        ),
    )


def _results(metrics: Mapping[str, Any], datasets: Sequence[str]) -> list[EvalResult]:
    measured = ClassificationMetrics.from_dict(metrics)
    dataset = datasets[0] if datasets else str(metrics.get("experiment") or "not stated")
    return [
        EvalResult(
            task_type="audio-classification",
            dataset_type=dataset,
            dataset_name=dataset,
            dataset_split="test",
            metric_type=kind,
            metric_name=title,
            metric_value=value,
        )
        for kind, title, value in (
            ("accuracy", "WAR (accuracy)", measured.war),
            ("recall", "UAR (mean of the per-class recalls)", measured.uar),
        )
    ]


def _results_text(metrics: Mapping[str, Any] | None) -> str:
    if not metrics:
        return "The run was exported before it was tested: there are no figures."
    measured = ClassificationMetrics.from_dict(metrics)
    lines = [
        f"Measured on {measured.n_test} test utterances (fold {metrics.get('fold')}, seed "
        f"{metrics.get('seed')}), with the checkpoint of the highest UAR in validation.",
        "",
        "| WAR (accuracy) | UAR (mean of the per-class recalls) |",
        "| --- | --- |",
        f"| {_percent(measured.war)} | {_percent(measured.uar)} |",
        "",
        "Rows are the true classes, columns the predicted ones.",
        "",
        f"| | {' | '.join(measured.labels)} | recall |",
        f"| --- |{' --- |' * (len(measured.labels) + 1)}",
    ]
    for label, counts in zip(measured.labels, measured.confusion, strict=True):
        recall = _percent(measured.per_class_recall[label])
        lines.append(f"| {label} | {' | '.join(map(str, counts))} | {recall} |")
    return "\n".join(lines)


def _percent(fraction: float | None) -> str:
    return "undefined" if fraction is None else f"{100 * fraction:.2f} %"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


_CARD = """\
---
{front_matter}
---

# {name}

Emotion recognition from speech by contrast of audio and language: an utterance and a
sentence about its speaker are embedded in one space, and an utterance belongs to the
class whose sentence is closest. The method is GEmo-CLAP (Pan et al., ICASSP 2024,
[arXiv 2306.07848](https://arxiv.org/abs/2306.07848)); the implementation is `gemoclap_sb`,
a plugin for [SpeechBrain](https://speechbrain.github.io).

Encoders: {encoders}. Embeddings of size {embedding_size}. Audio at {sample_rate} Hz, one channel.

## Classes and prompts

Attribute: `{head}`.

| label | word | sentences |
| --- | --- | --- |
{classes}

## Results

{results}

## How to load

With the package `gemoclap_sb` installed. Its own class reads `config.json`,
`model.safetensors` and `tokenizer/`, which are data, and runs no code from this folder:

```python
from gemoclap_sb.inference import GEmoCLAPClassifier

classifier = GEmoCLAPClassifier.from_pretrained("path/or/hub-id")
log_posteriors, score, index, label = classifier.classify_file("speech.wav")
# Any other words, without training:
classifier.classify_file("speech.wav", labels=["bored", "afraid", "calm"])
```

SpeechBrain's class runs what `hyperparams.yaml` says; use it with folders that you trust:

```python
from speechbrain.inference.classifiers import EncoderClassifier

classifier = EncoderClassifier.from_hparams(source="path/or/hub-id")
log_posteriors, score, index, label = classifier.classify_file("speech.wav")
```

Recordings longer than {longest:g} s are embedded in equal pieces, and the pieces' embeddings
averaged. For how emotion changes over a long recording, ask for a timeline instead.

## Data

{data}

## Intended use and limits

Meant for research on speech and for exploring recordings whose speakers have agreed to it.

- The classes are those of the training data. Corpora of emotional speech are small and often
  acted; on other speakers, languages, microphones and noise expect less than the figures above.
- What is recognised is how an utterance sounds to annotators, not what a person feels.
- There is always an answer: silence, music and noise get a class too.
- Words outside of training (zero-shot) are a guess of unknown accuracy until measured.
- Do not decide about people by it. In the European Union, inferring emotions at work and in
  education is prohibited, with few exceptions (Regulation (EU) 2024/1689, article 5(1)(f)).

{terms} The terms of the training data and of the encoders that training started from may add
to it.
"""
