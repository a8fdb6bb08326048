"""The README of an exported model: what it is, what it scored, how to load it.

The front matter is the hub's (https://huggingface.co/docs/hub/model-cards), so that
the results show there; the text follows Mitchell et al., "Model Cards for Model
Reporting", arXiv 1810.03993.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from gemoclap_sb.evaluation.metrics import ClassificationMetrics
from gemoclap_sb.evaluation.report import (
    VALIDATION_NOTES,
    markdown_table,
    percent,
    uncertainty_lines,
)
from gemoclap_sb.export.card_texts import tags, texts
from gemoclap_sb.models.building import encoder_names, heard_speeds, members_of
from gemoclap_sb.models.configuration import build_prompts


def model_card(
    config: Mapping[str, Any],
    name: str,
    *,
    license: str | None = None,
    datasets: Sequence[str] = (),
    language: str | None = None,
) -> str:
    """Write a model card, Markdown with YAML front matter, of an export's ``config.json``.

    ``license`` is an SPDX identifier in lower case, without which the card says that none was
    chosen; ``datasets`` what it was trained on, as the hub calls them; ``language`` their code.
    """
    metrics = config.get("metrics")
    data = ModelCardData(
        library_name="speechbrain",
        license=license or "other",
        license_name=None if license else "not-chosen",
        language=language,
        tags=tags(config),
        datasets=list(datasets) or None,
        metrics=["accuracy", "recall"],
        pipeline_tag="audio-classification",
        model_name=name if metrics else None,
        eval_results=_results(metrics, datasets) if metrics else None,
    )
    members = members_of(config["model"])
    head = members[0]["heads"][0]
    encoders = (f"{name} ({part})" for part, name in encoder_names(config["model"]).items())
    return template("README.md").format(
        front_matter=data.to_yaml(),
        name=name,
        encoders=", ".join(encoders),
        embedding_size=sum(one["embedding_size"] for one in members),
        sample_rate=config["sample_rate"],
        speeds=", ".join(map(str, heard_speeds(config["model"]))),
        longest=config["longest_seconds"],
        head=head,
        classes="\n".join(_classes_table(config, head)),
        **texts(config),
        results="\n".join(runs_lines(config["runs"])) if members[1:] else _results_text(metrics),
        data=", ".join(datasets) or "not stated when the model was exported",
        terms=(
            f"Licence: {license}."
            if license
            else "No licence was chosen when the model was exported: ask its author."
        ),
    )


def _classes_table(config: Mapping[str, Any], head: str) -> list[str]:
    prompts = build_prompts(config)
    names = [[f"`{label}`", word] for label, word in prompts.words[head].items()]
    if head not in prompts.templates:
        return markdown_table(["label", "word"], names)
    said = map("; ".join, prompts.class_sentences(head))
    rows = [[*of, sentences] for of, sentences in zip(names, said, strict=True)]
    return markdown_table(["label", "word", "sentences"], rows)


def runs_lines(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say in lines of Markdown which runs a model is the average of, and what they scored."""
    rows = [
        [
            "–" if of.get(key) is None else of[key]
            for key in ("experiment", "fold", "seed", "n_test")
        ]
        + [percent(of.get(key)) for key in ("war", "uar")]
        for of in runs
    ]
    notes = dict.fromkeys(VALIDATION_NOTES.get(of.get("validation")) for of in runs)
    lines = [
        f"The average of {len(runs)} models: its cosines, or logits, are the mean of theirs.",
        "What each scored alone on its run's test set, or where it had none on its validation:",
        "",
        *markdown_table(["run of", "fold", "seed", "n_test", "WAR", "UAR"], rows),
        "",
        *(note for note in notes if note),
        "The average was not measured when it was exported; `gemoclap evaluate` measures it.",
    ]
    if len({of["fold"] for of in runs if of.get("fold") is not None}) > 1:
        lines += [
            "These runs are of different folds: what one was tested on, another may have learnt",
            "from. Measure on speakers that none has heard.",
        ]
    return lines


def template(name: str) -> str:
    """Text of a file in ``templates/``, with fields for `str.format`."""
    return files(__package__).joinpath("templates", name).read_text(encoding="utf-8")


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
    figures = [percent(measured.war), percent(measured.uar)]
    recalls = measured.per_class_recall
    rows = [
        [label, *counts, percent(recalls[label])]
        for label, counts in zip(measured.labels, measured.confusion, strict=True)
    ]
    lines = [
        f"Measured on {measured.n_test} test utterances (fold {metrics.get('fold')}, seed "
        f"{metrics.get('seed')}), with the checkpoint of epoch {metrics.get('epoch')}.",
        "",
        *markdown_table(["WAR (accuracy)", "UAR (mean of the per-class recalls)"], [figures]),
        "",
        "Rows are the true classes, columns the predicted ones; – is undefined.",
        "",
        *markdown_table(["", *measured.labels, "recall"], rows),
    ]
    if note := VALIDATION_NOTES.get(metrics.get("validation")):
        lines[2:2] = [note, ""]
    if sureness := uncertainty_lines(metrics):
        lines += ["", *(f"- {line}" for line in sureness)]
    return "\n".join(lines)
