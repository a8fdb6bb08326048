"""Our encoders against SpeechBrain's stock path, piece by piece, in one run.

    python benchmarks/encoders.py                                  # base, CPU, half an hour
    python benchmarks/encoders.py --size large --device cuda --precision bf16
    python benchmarks/encoders.py --size tiny --families wavlm     # seconds, to try it

The stock path is SpeechBrain's lobe and `StatisticsPooling`, batches drawn at random, its
`TextEncoder` on every prompt of the batch, everything trained by `torch.optim.Adam` as torch has
it by default. The other rows change one piece each, and the last ones all of them. How it is
measured:

- Real architectures, random weights, the same in every row; LayerDrop off.
- A row's training, and its inference, is measured in a process of its own, warmed up: the median
  of three times the same batches. A round measures every row; figures are medians over rounds,
  ratios medians of the ratios within a round.
- The samplers see the whole corpus with its true durations; padding is that of a whole epoch. The
  batches measured stand for it: equal strata by padded length, of each the nearest to its mean.
  Waveforms are noise, made beforehand, shortened by `--duration-scale`, which keeps the padding.
- Inference: audio only, the classes' texts encoded once; `pooled` rows sort by length.
- Peak memory: of training, weights and optimiser included. On a GPU what torch allocated; on the
  CPU the growth of the process's resident set, loading included.
- Alone vs batch: largest difference between an embedding (pooled frames, float32) of an utterance
  alone and in a batch, over eight of a random batch, shortest and longest among them.
- Where a batch does not fit a GPU, the family is measured anew with half of it, and that is said.
"""

from __future__ import annotations

import logging
import multiprocessing
import resource
import sys
import tempfile
import time
import warnings
from argparse import ArgumentParser, Namespace, RawTextHelpFormatter
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median

import encoder_tables as tables
import numpy as np
import torch
import transformers
from padding import SAMPLE_RATE, make_batches, read_seconds, typical_batches
from speechbrain.integrations.huggingface import hubert, textencoder, wav2vec2, wavlm
from speechbrain.nnet.pooling import StatisticsPooling
from torch import Tensor, nn

from gemoclap_sb.data.samplers import speech_share
from gemoclap_sb.lobes.attention import FusedWavLMAttention
from gemoclap_sb.lobes.ssl import SSLEncoder
from gemoclap_sb.lobes.text import TextEncoder
from gemoclap_sb.models.gemoclap import GEmoCLAP
from gemoclap_sb.objectives import contrastive

# Duration scale, batches and rounds; those of base fit two cores and half an hour.
DEFAULTS = {"tiny": (0.1, 2, 2), "base": (0.125, 1, 1), "large": (0.05, 1, 1), "cuda": (1.0, 8, 3)}
SHAPE = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
# flex_attention takes heads of sixteen columns or more.
SHAPES = {"tiny": (64, 2, 4, 128), "base": (768, 12, 12, 3072), "large": (1024, 24, 16, 4096)}
LOBES = {"wavlm": wavlm.WavLM, "hubert": hubert.HuBERT, "wav2vec2": wav2vec2.Wav2Vec2}
# SpeechBrain has none for data2vec-audio; that of wav2vec 2.0 loads it.
LOBES["data2vec"] = LOBES["wav2vec2"]
EMOTIONS = [f"this person sounds {word}" for word in ("angry", "happy", "neutral", "sad")]
SENTENCES = {"emotion": EMOTIONS, "gender": ["a female speaker", "a male speaker"]}
WEIGHTS = {"emotion": 0.9, "gender": 0.1}
FIGURES = ("size", "training", "memory", "padding", "inference", "difference")
PARTS = ("attention", "heads", "rows")


def parse(arguments: Sequence[str] | None) -> Namespace:
    """Read the command line, what depends on size and device, and the durations."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawTextHelpFormatter)
    add = parser.add_argument
    add("--size", choices=SHAPES, default="base")
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--precision", choices=("fp32", "bf16"), default="fp32", help="bf16 is autocast")
    add("--families", nargs="+", choices=LOBES, default=list(LOBES))
    add("--ablation", nargs="*", choices=LOBES, default=["wavlm"], help="with a row per piece")
    add("--parts", nargs="+", choices=PARTS, default=PARTS)
    add("--durations", type=Path, help="CSV file; default IEMOCAP's, else a log-normal sample")
    add("--column", default="duration", help="its column of seconds")
    add("--duration-scale", type=float, help="factor on the waveforms' lengths")
    add("--batches", type=int, help="batches of each measurement")
    add("--batch-size", type=int, default=32)
    add("--rounds", type=int, help="repetitions")
    add("--minutes", type=float, default=60.0, help="start no further round that would pass this")
    add("--attention-dropout", type=float, default=0.1, help="of the checkpoints")
    add("--gradient-checkpointing", action="store_true", help="add a row")
    add("--attention-seconds", type=float, default=15.0, help="of WavLM's attention alone")
    add("--threads", type=int, default=torch.get_num_threads())
    add("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    options.on_cpu = options.device == "cpu"
    if not options.on_cpu and not torch.cuda.is_available():
        parser.error("--device cuda: expected a GPU that torch can use, found none")
    defaults = DEFAULTS[options.size if options.on_cpu else "cuda"]
    for name, default in zip(("duration_scale", "batches", "rounds"), defaults, strict=True):
        setattr(options, name, getattr(options, name) or default)
    options.autocast = (options.device, torch.bfloat16, options.precision == "bf16")
    options.seconds, options.origin = read_seconds(options.durations, options.column, options.seed)
    return options


def prepare(options: Namespace) -> None:
    """Set up a measuring process."""
    # The stock path's deprecation notes would stand between the tables.
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)


def in_child(function: Callable, options: Namespace, *arguments: object) -> object:
    """Call a function in a fresh process, where no memory of other measurements is left."""
    context = multiprocessing.get_context("forkserver")
    libraries = ("gemoclap_sb.", "speechbrain.integrations.", "transformers.models.")
    context.set_forkserver_preload([name for name in sys.modules if name.startswith(libraries)])
    with ProcessPoolExecutor(1, context, prepare, (options,)) as pool:
        try:
            return pool.submit(function, options, *arguments).result()
        except BrokenExecutor as error:
            raise RuntimeError("the process died; if for lack of memory, cut --size") from error


def peak_memory(options: Namespace) -> float:
    """Peak of this process in MiB: the allocator's on a GPU, the resident set's on the CPU."""
    if not options.on_cpu:
        return torch.cuda.max_memory_allocated() / 2**20
    unit = 2**20 if sys.platform == "darwin" else 2**10  # of bytes, of kibibytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def by_turns(options: Namespace, calls: Sequence[Callable], turns: int) -> list[list[float]]:
    """Seconds of each call, A B B A: none always finds another's memory in the cache."""
    wait = (lambda: None) if options.on_cpu else torch.cuda.synchronize
    seconds: list[list[float]] = [[] for _ in calls]
    for turn in range(turns):
        for place in range(len(calls))[:: -1 if turn % 2 else 1]:
            wait()
            start = time.perf_counter()
            calls[place]()
            wait()
            seconds[place].append(time.perf_counter() - start)
    return seconds


def save_models(options: Namespace) -> None:
    """Save the published architectures with random weights; both paths load the same."""
    shape = dict(zip(SHAPE, SHAPES[options.size], strict=True))
    for family in dict.fromkeys([*options.families, "wavlm"]):
        # A layer skipped by LayerDrop would be time saved by chance.
        settings = shape | {"layerdrop": 0.0, "attention_dropout": options.attention_dropout}
        settings |= {"conv_dim": [16] * 7} if options.size == "tiny" else {}
        if options.size == "large" and family != "data2vec":
            # data2vec-audio has one kind of front end and of layers only.
            settings |= {"feat_extract_norm": "layer", "conv_bias": True}
            settings["do_stable_layer_norm"] = True
        name, folder = family.replace("data2vec", "data2vec-audio"), options.folder / family
        config = transformers.AutoConfig.for_model(name, **settings)
        transformers.AutoModel.from_config(config).save_pretrained(folder)
        transformers.Wav2Vec2FeatureExtractor(return_attention_mask=True).save_pretrained(folder)
    # Every word becomes a token, as in the published vocabulary.
    texts = [sentence for of in SENTENCES.values() for sentence in of]
    words = transformers.RobertaTokenizer().train_new_from_iterator(texts, 600, show_progress=False)
    words.save_pretrained(options.folder / "text")
    # Of FacebookAI/roberta-base, which the project pairs with every audio encoder.
    text = {"vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1}
    text |= {"pad_token_id": words.pad_token_id} | (shape if options.size == "tiny" else {})
    model = transformers.RobertaModel(transformers.RobertaConfig(**text), add_pooling_layer=False)
    model.save_pretrained(options.folder / "text")


class EveryPromptGEmoCLAP(GEmoCLAP):
    """`GEmoCLAP` that encodes the prompt of every utterance, equal ones again and again."""

    def encode_text(self, sentences: Sequence[str]) -> Tensor:
        """Embed N sentences, [N, D], L2-normalised."""
        vectors = self.text_projection(self.text_encoder(list(sentences)))
        return nn.functional.normalize(vectors.float(), dim=-1)


def build_model(options: Namespace, family: str, row: tables.Row, heads: Sequence[str]) -> GEmoCLAP:
    """Put the lobes of a row into a GEmoCLAP; projections are the same on both paths."""
    audio_paths, text_paths = ([str(options.folder / name)] * 2 for name in (family, "text"))
    settings: dict[str, object] = {"freeze_feature_extractor": row.front_end != "trained"}
    if row.lobe == "stock":
        audio = LOBES[family](*audio_paths, **settings).float()
        text = textencoder.TextEncoder(*text_paths, freeze=False)
        # The vector of the first token, as ours gives.
        text.register_forward_hook(lambda _, inputs, tokens: tokens[:, 0])
        mean = StatisticsPooling(return_std=False)
        settings = {"pooling": lambda frames, counts: mean(frames, counts / frames.shape[1])[:, 0]}
        settings["audio_size"] = audio.model.config.hidden_size
        settings["text_size"] = text.model.config.hidden_size
    else:
        settings["attention_dropout"] = 0.0 if row.attention == "flex" else None
        settings["gradient_checkpointing"] = row.name.endswith("checkpointed")
        audio = SSLEncoder(*audio_paths, attention=row.attention, **settings)
        text, settings = TextEncoder(*text_paths), {}
    model_class = EveryPromptGEmoCLAP if row.prompts == "every" else GEmoCLAP
    return model_class(audio, text, heads=heads, **settings).to(options.device)


def make_batch(options: Namespace, indices: Sequence[int]) -> tuple[Tensor, Tensor, dict, dict]:
    """Make waveforms, their relative lengths, sentences and classes, the same in every batch."""
    wavs = []
    for index in indices:
        # The encoders' first frame takes 0.025 s.
        count = round(max(options.seconds[index] * options.duration_scale, 0.05) * SAMPLE_RATE)
        noise = np.random.default_rng((options.seed, index)).standard_normal(count)
        loudness = 0.1 * (1.1 + np.sin(np.arange(count) / SAMPLE_RATE * 2 * np.pi * 4))
        wavs.append(torch.from_numpy(noise * loudness).float())
    padded = nn.utils.rnn.pad_sequence(wavs, batch_first=True).to(options.device)
    lengths = torch.tensor([len(wav) for wav in wavs], device=options.device)
    sentences = {name: [of[i % len(of)] for i in indices] for name, of in SENTENCES.items()}
    indices = torch.tensor(indices, device=options.device)
    labels = {name: indices % len(of) for name, of in SENTENCES.items()}
    return padded, lengths / lengths.max(), sentences, labels


def rate(options: Namespace, call: Callable, batching: str, size: int) -> float:
    """Utterances per second of a call on batches that stand for an epoch, the median of three."""
    count = -(-options.batches * options.batch_size // size)
    picked = typical_batches(batching, options.seconds, size, options.seed, count)
    batches = [make_batch(options, indices) for indices in picked]
    # A GPU compiles kernels for each shape, so it sees all of them; for a slow CPU four will do.
    middling = np.argsort(options.seconds)[len(options.seconds) // 2 :][:4].tolist()
    for batch in [make_batch(options, middling)] if options.on_cpu else batches:
        call(*batch)
    (seconds,) = by_turns(options, [lambda: [call(*batch) for batch in batches]], 3)
    return sum(map(len, picked)) / median(seconds)


def make_step(
    options: Namespace, model: GEmoCLAP, objective: nn.Module, row: tables.Row
) -> Callable:
    """Make the function that trains on a batch."""
    fused = {"fused": True} if row.adam == "fused" else {}
    optimizer = torch.optim.Adam(model.train().parameters(), lr=2e-5, **fused)

    def step(wavs: Tensor, wav_lens: Tensor, sentences: dict, labels: dict) -> None:
        optimizer.zero_grad()
        with torch.autocast(*options.autocast):
            outputs = model(wavs, wav_lens, {head: sentences[head] for head in model.heads})
            loss = objective(outputs, labels)
        loss.backward()
        optimizer.step()

    return step


def measure_training(
    options: Namespace, family: str, row: tables.Row, size: int
) -> dict[str, float]:
    """Measure the figures of a row's training."""
    before = peak_memory(options)
    model = build_model(options, family, row, ["emotion"])
    step = make_step(options, model, contrastive.SoftLabelObjective(WEIGHTS), row)
    figures = {"size": size, "training": rate(options, step, row.batching, size)}
    figures["memory"] = peak_memory(options) - before
    if not all(parameter.isfinite().all() for parameter in model.parameters()):
        raise RuntimeError(f"{family}, {row.name}: expected finite weights, found others")
    epoch = make_batches(row.batching, options.seconds, size, options.seed, epoch=1)
    figures["padding"] = 100 * (1 - speech_share(options.seconds, epoch))
    return figures


@torch.no_grad()
def measure_inference(
    options: Namespace, family: str, row: tables.Row, size: int
) -> dict[str, float | None]:
    """Measure the figures of a row's inference, the difference None where it is left out."""
    model = build_model(options, family, row, ["emotion"]).eval()
    way = "sorted" if row.batching == "pooled" else "random"
    with torch.autocast(*options.autocast):
        classes = model.encode_classes([[sentence] for sentence in EMOTIONS]).T

        def infer(wavs: Tensor, wav_lens: Tensor, *rest: dict) -> Tensor:
            return model.encode_audio(wavs, wav_lens) @ classes

        figures = {"inference": rate(options, infer, way, size), "difference": None}
    if row.name in (tables.STOCK, "our lobe", tables.ALL):
        # A GPU's convolutions round to ten bits by default, which is no property of the lobes.
        torch.backends.cudnn.allow_tf32 = False
        (chosen,) = typical_batches("random", options.seconds, size, options.seed, 1)
        chosen = sorted(chosen, key=lambda index: options.seconds[index])
        chosen = [chosen[int(place)] for place in np.linspace(0, len(chosen) - 1, min(8, size))]
        batches = [make_batch(options, of) for of in (chosen, *([index] for index in chosen))]
        together, *alone = (model.pool(*batch[:2]) for batch in batches)
        figures["difference"] = float((torch.cat(alone) - together).abs().max())
    return figures


def measure_heads(options: Namespace, family: str, turns: int) -> list[list[float]]:
    """Seconds of steps of Emo-CLAP and of ML-GEmo-CLAP on the same encoders."""
    (row,) = (row for row in tables.rows_of(options, family) if row.name == tables.ALL)
    (of,) = typical_batches(row.batching, options.seconds, options.batch_size, options.seed, 1)
    objectives = (contrastive.EmoCLAPObjective(), contrastive.MultiTaskObjective(WEIGHTS))
    emotion, multi = (build_model(options, family, row, one.heads) for one in objectives)
    multi.audio_encoder, multi.text_encoder = emotion.audio_encoder, emotion.text_encoder
    pairs = zip((emotion, multi), objectives, strict=True)
    calls = [partial(make_step(options, *pair, row), *make_batch(options, of)) for pair in pairs]
    by_turns(options, calls, 1)
    return by_turns(options, calls, turns)


def measure_attention(options: Namespace, names: list[str], dropout: float, turns: int) -> tuple:
    """Seconds of forward and backward of WavLM's attention by name, and the peak in MiB."""
    config = transformers.AutoConfig.from_pretrained(options.folder / "wavlm")
    config.update({"num_hidden_layers": 4, "attention_dropout": dropout})
    # One frame less than fifty a second, as the front end gives.
    shape = (2 if options.on_cpu else 8, round(options.attention_seconds * 50) - 1)
    frames = torch.randn(*shape, config.hidden_size, device=options.device, requires_grad=True)

    def run(layers: nn.ModuleList) -> None:
        hidden, bias = frames, None
        with torch.autocast(*options.autocast):
            for layer in layers:
                hidden, _, bias = layer.attention(hidden, position_bias=bias)
        hidden.float().square().mean().backward()
        layers.zero_grad()

    calls = []
    for name in names:
        layers = transformers.AutoModel.from_config(config).encoder.layers.to(options.device)
        for layer in layers.train() if name != "eager" else ():
            layer.attention = FusedWavLMAttention(layer.attention, name)
        calls.append(partial(run, layers.train()))
    before = peak_memory(options)
    by_turns(options, calls, 1)
    if not options.on_cpu:
        # Compilation takes memory that training does not.
        torch.cuda.reset_peak_memory_stats()
        before = peak_memory(options)
    return by_turns(options, calls, turns), peak_memory(options) - before


def measure_rows(options: Namespace) -> dict[str, dict[str, dict[str, list]]]:
    """Measure by turns: lists of figures by family and row. Print where memory was short."""
    results = {family: defaultdict(lambda: defaultdict(list)) for family in options.families}
    sizes, start = dict.fromkeys(options.families, options.batch_size), time.monotonic()
    for done in range(options.rounds):
        if done and time.monotonic() + (time.monotonic() - start) / done > options.deadline:
            break
        for family in options.families:
            rows, taken = tables.rows_of(options, family), []
            while len(taken) < len(rows):
                row, size = rows[len(taken)], sizes[family]
                print(f"round {done + 1}: {family}, {row.name}", file=sys.stderr)
                try:
                    figures = in_child(measure_training, options, family, row, size)
                    if row.infers:
                        figures |= in_child(measure_inference, options, family, row, size)
                    taken.append(figures)
                except torch.OutOfMemoryError:
                    print(f"{family}, {row.name}: no memory for batches of {size}.\n", flush=True)
                    if size == 1:
                        raise
                    sizes[family], taken = size // 2, []
            for row, figures in zip(rows, taken, strict=True):
                for figure in FIGURES:
                    results[family][row.name][figure].append(figures.get(figure))
    return results


def run_attention(options: Namespace) -> list[str]:
    """Measure and print WavLM's attention alone; return what became of its goals."""
    (size, turns), measured = (2, 3) if options.on_cpu else (8, 20), {}
    for dropout in dict.fromkeys((0.0, options.attention_dropout)):
        # flex_attention has no dropout.
        names = ["eager", "sdpa"] + (["flex"] if not options.on_cpu and dropout == 0 else [])
        seconds, _ = in_child(measure_attention, options, names, dropout, turns)
        peaks = [in_child(measure_attention, options, [name], dropout, 1)[1] for name in names]
        measured[dropout] = list(zip(names, seconds, peaks, strict=True))
    return tables.print_attention(options, measured, size, turns)


def run_heads(options: Namespace) -> list[str]:
    """Measure and print a step of ML-GEmo-CLAP over one of Emo-CLAP; return its goal."""
    family, turns = options.families[0], 4 if options.on_cpu else 40
    return tables.print_heads(family, *in_child(measure_heads, options, family, turns), turns)


def run_rows(options: Namespace) -> list[str]:
    """Measure and print the rows and the gains; return what became of their goals."""
    print("\n## Rows\n", flush=True)
    return tables.print_rows(options, measure_rows(options))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    options = parse(arguments)
    started, goals = time.monotonic(), []
    options.deadline = started + 60 * options.minutes
    print(in_child(tables.header, options), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        options.folder = Path(folder)
        in_child(save_models, options)
        for part, run in zip(PARTS, (run_attention, run_heads, run_rows), strict=True):
            goals += run(options) if part in options.parts else []
    print("\n## Goals\n\nMeant for base on the CPU, and for large on a GPU in bf16.\n")
    print("\n".join(goals))
    print(f"\nThe run took {(time.monotonic() - started) / 60:.1f} minutes.")


if __name__ == "__main__":
    main()
