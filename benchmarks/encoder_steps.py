"""One row of the encoder benchmark: build the model, train and infer, by the clock.

A training step is the forward pass of audio and text, the SL-GEmo-CLAP loss, the backward
pass and Adam's step. Batches are made beforehand and lie on the device.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from encoder_batches import PROMPTS, Batch, Corpus, epoch_batches, make_batch, typical_batches
from encoder_processes import MeasurementError, PeakMemory
from torch import Tensor, nn

from gemoclap_sb.data.samplers import speech_share
from gemoclap_sb.lobes import SSLEncoder, TextEncoder
from gemoclap_sb.lobes.pooling import MaskedMeanPooling
from gemoclap_sb.models.gemoclap import GEmoCLAP
from gemoclap_sb.objectives.contrastive import (
    EmoCLAPObjective,
    MultiTaskObjective,
    SoftLabelObjective,
)

EMBEDDING_SIZE = 512
LEARNING_RATE = 2e-5
COMPARED_UTTERANCES = 8
"""Utterances whose embedding alone is held against the one in a batch."""


@dataclass(frozen=True)
class Variant:
    """What a row varies.

    Attributes
    ----------
    name : str
        What the row is called.
    lobe : str
        `stock` or `ours`: audio lobe, pooling and text lobe.
    attention : str
        `SSLEncoder`'s option. The stock lobe has what transformers gives it.
    batching : str
        Of training: `random` or `pooled`. Inference is `random` or `sorted`.
    prompts : str
        `every` or `distinct`.
    front_end : str
        `trained`, `frozen` without a graph, or `no gradient`: the stock lobe's
        `freeze_feature_extractor`, which still builds the graph.
    attention_dropout : float or None
        In place of the checkpoint's.
    gradient_checkpointing : bool
        Ours only.
    batch_size : int
        Utterances per batch.
    """

    name: str
    lobe: str = "stock"
    attention: str = "stock"
    batching: str = "random"
    prompts: str = "every"
    front_end: str = "trained"
    attention_dropout: float | None = None
    gradient_checkpointing: bool = False
    batch_size: int = 32


@dataclass(frozen=True)
class Setting:
    """What all rows share.

    Attributes
    ----------
    corpus : Corpus
        The utterances.
    utterances : int
        Utterances of each measurement, at least.
    text_folder : str
        The text encoder.
    device, precision : str
        `cpu` or `cuda`; `fp32` or `bf16`.
    threads : int
        Of torch on the CPU.
    """

    corpus: Corpus
    utterances: int
    text_folder: str
    device: str
    precision: str
    threads: int


@dataclass(frozen=True)
class Measurement:
    """What `measure` returns.

    Attributes
    ----------
    training_seconds, training_utterances
        Of the timed training steps.
    inference_seconds, inference_utterances
        Of inference; None and 0 where it was not measured.
    peak_memory : float
        MiB.
    padding : float
        Share of padding in a whole epoch of the training batches.
    difference : float or None
        Largest between embeddings alone and in a batch.
    """

    training_seconds: float
    training_utterances: int
    inference_seconds: float | None
    inference_utterances: int
    peak_memory: float
    padding: float
    difference: float | None

    @property
    def training(self) -> float:
        """Utterances per second of training."""
        return self.training_utterances / self.training_seconds

    @property
    def inference(self) -> float | None:
        """Utterances per second of inference; None where it was not measured."""
        if self.inference_seconds is None:
            return None
        return self.inference_utterances / self.inference_seconds


def build_encoders(
    variant: Variant, family: str, audio_folder: str, text_folder: str
) -> tuple[nn.Module, nn.Module, nn.Module]:
    """Load the audio lobe, its pooling and the text lobe of a variant.

    Parameters
    ----------
    variant : Variant
        The row.
    family : str
        Which stock lobe.
    audio_folder, text_folder : str
        Where the models lie.

    Returns
    -------
    tuple of nn.Module
    """
    # Imported here: SpeechBrain's lobes are needed in the measuring process only.
    from encoder_stock import StockPooling, StockText, stock_audio_lobe

    if variant.lobe == "stock":
        audio = stock_audio_lobe(family, audio_folder, variant.front_end != "trained")
        pooling = StockPooling(audio.model.config.hidden_size)
        return audio, pooling, StockText(text_folder)
    audio = SSLEncoder(
        audio_folder,
        audio_folder,
        attention=variant.attention,
        freeze_feature_extractor=variant.front_end == "frozen",
        attention_dropout=variant.attention_dropout,
        gradient_checkpointing=variant.gradient_checkpointing,
    )
    return audio, MaskedMeanPooling(audio.output_size), TextEncoder(text_folder, text_folder)


def build_model(
    variant: Variant,
    encoders: tuple[nn.Module, nn.Module, nn.Module],
    heads: Sequence[str] = ("emotion",),
) -> GEmoCLAP:
    """Put the lobes of a variant into a GEmoCLAP."""
    from encoder_stock import EveryPromptGEmoCLAP

    audio, pooling, text = encoders
    model_class = EveryPromptGEmoCLAP if variant.prompts == "every" else GEmoCLAP
    return model_class(audio, text, EMBEDDING_SIZE, heads=heads, pooling=pooling)


def make_batches(setting: Setting, variant: Variant, batching: str) -> list[Batch]:
    """Pick and make the batches that stand for an epoch of a sampler, on the device."""
    corpus, size = setting.corpus, variant.batch_size
    epoch = epoch_batches(corpus, batching, size)
    picked = typical_batches(corpus.durations, epoch, -(-setting.utterances // size))
    return [make_batch(corpus, indices).to(setting.device) for indices in picked]


def autocast(setting: Setting) -> contextlib.AbstractContextManager:
    """Autocast to bfloat16 where the setting says so, as `sb.Brain` does."""
    if setting.precision == "bf16":
        return torch.autocast(setting.device, torch.bfloat16)
    return contextlib.nullcontext()


def make_step(setting: Setting, model: GEmoCLAP, objective: nn.Module) -> Callable[[Batch], Tensor]:
    """Make the function that trains on a batch and returns its loss, not yet waited for."""
    model.to(setting.device).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=LEARNING_RATE)

    def step(batch: Batch) -> Tensor:
        optimizer.zero_grad()
        with autocast(setting):
            sentences = {head: PROMPTS.sentences(head, batch.names) for head in model.heads}
            outputs = model(batch.wavs, batch.wav_lens, sentences)
            loss = objective(outputs, batch.labels)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def clock(device: str) -> float:
    """Seconds, once the device has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def warm_up_batches(setting: Setting, batches: list[Batch]) -> list[Batch]:
    """Batches that fill caches and optimiser state before the clock runs.

    A GPU compiles kernels and grows its pool for each shape, so it sees all of them. A
    CPU is slow and does not: the first second of four utterances will do.
    """
    if setting.device == "cuda":
        return batches
    first = batches[0]
    wavs = first.wavs[-4:, :16000]
    labels = {name: label[-4:] for name, label in first.labels.items()}
    names = {name: of[-4:] for name, of in first.names.items()}
    return [Batch(wavs, torch.ones(len(wavs)), names, labels)]


def prepare(setting: Setting) -> None:
    """Set threads and seed of the measuring process."""
    torch.set_num_threads(setting.threads)
    torch.manual_seed(setting.corpus.seed)


def measure(
    setting: Setting,
    variant: Variant,
    family: str,
    audio_folder: str,
    infer: bool,
    compare: bool,
) -> Measurement:
    """Measure one row, in a process of its own.

    Parameters
    ----------
    setting : Setting
        What all rows share.
    variant : Variant
        The row.
    family, audio_folder : str
        The audio encoder.
    infer : bool
        Whether to measure inference too.
    compare : bool
        Whether to hold embeddings alone against those of a batch.

    Returns
    -------
    Measurement

    Raises
    ------
    MeasurementError
        If the loss is not finite.
    """
    prepare(setting)
    memory = PeakMemory(setting.device)
    encoders = build_encoders(variant, family, audio_folder, setting.text_folder)
    model = build_model(variant, encoders)
    objective = SoftLabelObjective({"emotion": 0.9, "gender": 0.1})
    step = make_step(setting, model, objective)

    batches = make_batches(setting, variant, variant.batching)
    for batch in warm_up_batches(setting, batches):
        step(batch)
    start = clock(setting.device)
    losses = [step(batch) for batch in batches]
    training_seconds = clock(setting.device) - start
    peak_memory = memory.read()
    if not torch.isfinite(torch.stack(losses)).all():
        raise MeasurementError(f"{family}, {variant.name}: expected finite losses, found {losses}")

    model.eval()
    inference_seconds, inference_utterances = None, 0
    if infer:
        inference_seconds, inference_utterances = measure_inference(setting, variant, model)
    corpus = setting.corpus
    epoch = epoch_batches(corpus, variant.batching, variant.batch_size)
    return Measurement(
        training_seconds,
        sum(len(batch.wavs) for batch in batches),
        inference_seconds,
        inference_utterances,
        peak_memory,
        1 - speech_share(corpus.durations, epoch),
        batch_difference(setting, model) if compare else None,
    )


def measure_inference(setting: Setting, variant: Variant, model: GEmoCLAP) -> tuple[float, int]:
    """Classify batches, and return seconds and utterances."""
    batching = "sorted" if variant.batching == "pooled" else "random"
    batches = make_batches(setting, variant, batching)
    with torch.no_grad(), autocast(setting):
        classes = model.encode_classes(PROMPTS.class_sentences("emotion"))
        for batch in warm_up_batches(setting, batches):
            model.encode_audio(batch.wavs, batch.wav_lens)
        start = clock(setting.device)
        for batch in batches:
            (model.encode_audio(batch.wavs, batch.wav_lens) @ classes.T).argmax(1)
        seconds = clock(setting.device) - start
    return seconds, sum(len(batch.wavs) for batch in batches)


def batch_difference(setting: Setting, model: GEmoCLAP) -> float:
    """Largest difference between pooled embeddings in a padded batch and alone, in float32.

    Parameters
    ----------
    setting : Setting
        Corpus and device.
    model : GEmoCLAP
        In evaluation mode.

    Returns
    -------
    float
        Maximum over utterances and dimensions, absolute.
    """
    corpus = setting.corpus
    size = min(32, len(corpus.durations))
    (chosen,) = typical_batches(corpus.durations, epoch_batches(corpus, "random", size), 1)
    chosen = sorted(chosen, key=lambda index: corpus.durations[index])
    # Spread over the lengths, shortest and longest among them.
    steps = torch.linspace(0, len(chosen) - 1, min(COMPARED_UTTERANCES, len(chosen)))
    chosen = [chosen[int(position)] for position in steps]
    batch = make_batch(corpus, chosen).to(setting.device)
    # A GPU's convolutions round to ten bits by default, which is no property of the lobes.
    torch.backends.cudnn.allow_tf32 = False
    with torch.no_grad():
        together = model.pool(batch.wavs, batch.wav_lens)
        differences = []
        for row, index in enumerate(chosen):
            alone = make_batch(corpus, [index]).to(setting.device)
            difference = model.pool(alone.wavs, alone.wav_lens)[0] - together[row]
            differences.append(difference.abs().max())
    return float(torch.stack(differences).max())


def heads_ratio(
    setting: Setting, variant: Variant, family: str, audio_folder: str, repetitions: int
) -> tuple[list[float], list[float]]:
    """Time training steps of Emo-CLAP and of ML-GEmo-CLAP by turns, on the same encoders.

    Parameters
    ----------
    setting, variant, family, audio_folder
        As in `measure`.
    repetitions : int
        Passes over the batches.

    Returns
    -------
    tuple of list of float
        Seconds of each Emo-CLAP step and of the ML-GEmo-CLAP step beside it.
    """
    prepare(setting)
    encoders = build_encoders(variant, family, audio_folder, setting.text_folder)
    objectives = (EmoCLAPObjective(), MultiTaskObjective({"emotion": 0.9, "gender": 0.1}))
    steps = [
        make_step(setting, build_model(variant, encoders, objective.heads), objective)
        for objective in objectives
    ]
    batches = make_batches(setting, variant, variant.batching)
    for step in steps:
        for batch in warm_up_batches(setting, batches):
            step(batch)
    seconds: tuple[list[float], list[float]] = ([], [])
    order = list(zip(steps, seconds, strict=True))
    for _ in range(repetitions):
        for batch in batches:
            for step, of in order:
                start = clock(setting.device)
                step(batch)
                of.append(clock(setting.device) - start)
            # A B B A: neither is always the one that finds the other's memory in the cache.
            order.reverse()
    return seconds
