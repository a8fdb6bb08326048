"""Folders from strangers: each ends in one line, soon, without filling the memory.

A case is a name, the kinds of model that it is tried on, and what is done to the folder.
"""

from __future__ import annotations

import json
import math
import os
import resource
import shutil
import signal
import socket
import struct
import time
from contextlib import contextmanager

import pytest
import torch
from safetensors.torch import load_file, save_file

from gemoclap_sb.export import export
from gemoclap_sb.inference.classifier import GEmoCLAPClassifier
from gemoclap_sb.models.building import ConfigurationError
from gemoclap_sb.models.weights import WeightsError
from tests.run_folders import make_run, telling_model

KINDS = ("scratch", "pretrained", "ensemble")
MILLION = 10**6
DEEP = "[" * 10**5 + "]" * 10**5
CONFIG, WEIGHTS = "config.json", "model.safetensors"
TOKENIZER, TOKENIZER_CONFIG = "tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json"


@pytest.fixture(scope="module")
def folders(exported, runs, tmp_path_factory):
    other = make_run(tmp_path_factory.mktemp("run"), telling_model(("emotion", "gender"), seed=1))
    out = tmp_path_factory.mktemp("ensemble") / "model"
    return {**exported, "ensemble": export([runs["scratch"], other], out)}


@contextmanager
def bounded():
    """Two seconds and 300 MB; what would take much more is ended at once."""
    page = resource.getpagesize()
    with open("/proc/self/statm") as statm:
        size = int(statm.read().split()[0]) * page
    limits = resource.getrlimit(resource.RLIMIT_AS)

    def ended(*_):
        raise AssertionError("20 seconds")

    before = signal.signal(signal.SIGALRM, ended)
    peak, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    resource.setrlimit(resource.RLIMIT_AS, (size + 2**30, limits[1]))
    signal.alarm(20)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, limits)
    assert time.process_time() - began < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 300_000


def assert_refused(folder):
    with bounded(), pytest.raises((ConfigurationError, WeightsError)) as caught:
        GEmoCLAPClassifier.from_pretrained(folder, device="cpu")
    message = str(caught.value)
    assert "\n" not in message and message.isprintable()
    assert len(message.replace(str(folder), "")) < 900
    assert folder.name in message


# What is done to a folder.


def at(path, value):
    """Set a value of ``config.json``; ``model`` is each of an ensemble's members."""

    def change(config):
        *parents, last = path
        for place in [config] if path[0] != "model" else places(config):
            inner = place
            for key in parents[path[0] == "model" :]:
                inner = inner[key]
            inner[last] = value

    return edited(CONFIG, change)


def places(config):
    return config["model"].get("members", [config["model"]])


def edited(name, change):
    def apply(folder):
        content = json.loads((folder / name).read_text())
        change(content)
        (folder / name).write_text(json.dumps(content))

    return apply


def whole(change):
    """Change what the tokenizers' own class reads, of which other classes take the tokens alone."""

    def apply(folder):
        edited(TOKENIZER, change)(folder)
        edited(TOKENIZER_CONFIG, lambda c: c.update(tokenizer_class="TokenizersBackend"))(folder)

    return apply


def raw(name, key, literal):
    """Put JSON under a key that Python's writer would not write."""

    def apply(folder):
        content = json.loads((folder / name).read_text())
        content[key] = "@"
        (folder / name).write_text(json.dumps(content).replace('"@"', literal))

    return apply


def written(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def sparse(name, size):
    def apply(folder):
        with open(folder / name, "wb") as file:
            file.truncate(size)

    return apply


def replaced(name, make):
    def apply(folder):
        (folder / name).unlink()
        make(folder / name)

    return apply


def bound(path):
    # A name for a socket must be short.
    held = os.getcwd()
    os.chdir(path.parent)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path.name)
    os.chdir(held)


def out_of_it(path):
    """A link to a file that would do, beside the model's folder."""
    folder = next(parent for parent in path.parents if (parent / "README.md").exists())
    whole = folder.parent / "elsewhere" / path.name
    whole.parent.mkdir(exist_ok=True)
    shutil.copy(folder.parent / "whole" / path.relative_to(folder), whole)
    path.symlink_to(whole)


def tokenizer_link(folder):
    shutil.move(folder / "tokenizer", folder.parent / "tokenizer")
    (folder / "tokenizer").symlink_to(folder.parent / "tokenizer")


def header(change):
    """Change the header of the weights, whatever follows it."""

    def apply(folder):
        data = (folder / WEIGHTS).read_bytes()
        length = struct.unpack("<Q", data[:8])[0]
        content = change(json.loads(data[8 : 8 + length]))
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        (folder / WEIGHTS).write_bytes(
            struct.pack("<Q", len(content)) + content + data[8 + length :]
        )

    return apply


def tensors(change):
    def apply(folder):
        state = load_file(folder / WEIGHTS)
        name = next(name for name in state if name.endswith("text_projection.layers.0.weight"))
        changed = change(state, name)
        save_file({key: of.contiguous() for key, of in changed.items()}, folder / WEIGHTS)

    return apply


def filled(value, ending="text_projection.layers.0.weight"):
    def change(state, _):
        for name, tensor in state.items():
            if name.endswith(ending):
                tensor.view(-1)[0 if math.isnan(value) else slice(None)] = value
        return state

    return tensors(change)


def header_of_many(_):
    entry = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    return {f"t{i}": entry for i in range(100_000)}


AUDIO, TEXT = ("model", "audio_encoder", "config"), ("model", "text_encoder", "config")
SSL, HF = (*AUDIO, "model"), (*TEXT, "model")
CONTENT = {"content": "x", "single_word": False, "lstrip": False, "rstrip": False}
CONTENT |= {"normalized": False, "special": False}
EMOTIONS = ("words", "emotion")
REPEATED = {"Regex": "(a+)+$"}
SPLIT = {"type": "Split", "pattern": REPEATED, "behavior": "Isolated", "invert": False}
REPLACE = {"type": "Replace", "pattern": {"String": "s"}, "content": "ss"}

ALL, SCRATCH, PRETRAINED = KINDS, ("scratch", "ensemble"), ("pretrained",)
CASES: list[tuple[str, tuple[str, ...], object]] = []


def add(kinds, **cases):
    CASES.extend((name, kinds, apply) for name, apply in cases.items())


# JSON that is none, or more than anybody writes.
for file, kinds in ((CONFIG, ALL), (TOKENIZER, PRETRAINED), (TOKENIZER_CONFIG, PRETRAINED)):
    short = file.split("/")[-1].removesuffix(".json")
    texts = {
        "empty": b"",
        "deep": DEEP.encode(),
        "deep_objects": b'{"a":' * 10**5 + b"1" + b"}" * 10**5,
        "unclosed": b"[" * 10**6,
        "list": b"[]",
        "number": b"1",
        "null": b"null",
        "text": b'"x"',
        "marked": b"\xef\xbb\xbf{}",
        "latin": b'{"a": "\xe4"}',
        "zeros": b"\0" * 100,
        "many": b"[" + b"[]," * 10**6 + b"[]]",
        "pickle": b"\x80\x04N.",
    }
    if file != CONFIG:
        texts = {
            name: texts[name] for name in ("empty", "deep", "unclosed", "list", "latin", "many")
        }
    add(kinds, **{f"{short}_{name}": written(file, text) for name, text in texts.items()})
    literals = {
        "deep_inside": DEEP,
        "forty_deep": "[" * 40 + "]" * 40,
        "digits": "9" * 400,
        "many_digits": "9" * 5000,
        "huge": "1e999",
        "minus_huge": "-1e999",
        "nan": "NaN",
        "infinity": "Infinity",
        "half_a_character": '"\\ud800"',
        "twice": '1, "surprise": 2',
        "object_twice": '{"a": 1, "a": 2}',
    }
    if file != CONFIG:
        literals = {name: literals[name] for name in ("deep_inside", "digits", "huge", "twice")}
    add(
        kinds,
        **{f"{short}_{name}": raw(file, "surprise", text) for name, text in literals.items()},
    )
for file, kinds in (
    (CONFIG, ALL), (WEIGHTS, ALL), (TOKENIZER, PRETRAINED), (TOKENIZER_CONFIG, PRETRAINED),
):  # fmt: skip
    short = file.split("/")[-1]
    add(
        kinds,
        **{
            f"{short}_missing": replaced(file, lambda path: None),
            f"{short}_pipe": replaced(file, os.mkfifo),
            f"{short}_socket": replaced(file, bound),
            f"{short}_folder": replaced(file, os.mkdir),
            f"{short}_device": replaced(file, lambda path: path.symlink_to("/dev/zero")),
            f"{short}_out_of_it": replaced(file, out_of_it),
            f"{short}_dangling": replaced(file, lambda path: path.symlink_to("nothing")),
            f"{short}_loop": replaced(file, lambda path: path.symlink_to(path.name)),
            f"{short}_gigabytes": sparse(file, 3 * 2**30),
        },
    )
add(
    ALL,
    rate_zero=at(["sample_rate"], 0),
    rate_negative=at(["sample_rate"], -16000),
    rate_one=at(["sample_rate"], 1),
    rate_huge=at(["sample_rate"], 2**31),
    rate_text=at(["sample_rate"], "16000"),
    rate_true=at(["sample_rate"], True),
    longest_zero=at(["longest_seconds"], 0),
    longest_negative=at(["longest_seconds"], -1),
    longest_tiny=at(["longest_seconds"], 1e-9),
    longest_huge=at(["longest_seconds"], 1e300),
    longest_list=at(["longest_seconds"], [60]),
    calibration_tiny=at(["calibration"], {"emotion": 1e-300}),
    calibration_huge=at(["calibration"], {"emotion": 1e300}),
    calibration_list=at(["calibration"], [1]),
    format_list=at(["format"], ["gemoclap_sb"]),
    version_huge=at(["format_version"], 10**30),
    version_text=at(["format_version"], "1" * 10_000),
    words_list=at(["words"], []),
    words_of_lists=at(["words"], {"emotion": ["ang"]}),
    words_empty=at(["words"], {}),
    words_number=at([*EMOTIONS, "ang"], 1),
    word_empty=at([*EMOTIONS, "ang"], ""),
    word_blank=at([*EMOTIONS, "ang"], " \t"),
    word_twice=at([*EMOTIONS, "ang"], "sad"),
    word_endless=at([*EMOTIONS, "ang"], "a" * MILLION),
    label_empty=at(["labels", "emotion"], ["", "hap", "neu", "sad"]),
    labels_text=at(["labels"], "emotion"),
    labels_twice=at(["labels", "emotion"], ["ang"] * 4),
    labels_of_numbers=at(["labels", "emotion"], [1, 2, 3, 4]),
    templates_empty=at(["templates"], {}),
    templates_none=at(["templates", "emotion"], []),
    template_number=at(["templates", "emotion"], [1]),
    template_of_no_word=at(["templates", "emotion"], ["so"]),
    template_open=at(["templates", "emotion"], ["so {"]),
    template_format=at(["templates", "emotion"], ["{:>1000000000}{bogus}"]),
    template_attribute=at(["templates", "emotion"], ["{0.__class__}"]),
    template_endless=at(["templates", "emotion"], ["{}" + "a" * MILLION]),
    templates_too_many=at(["templates", "emotion"], [f"{i} {{}}" for i in range(50_000)]),
    metrics_list=at(["metrics"], [1]),
    runs_of_numbers=at(["runs"], [1]),
    runs_of_texts=at(["runs"], [{"war": "high"}]),
    unsupported=at(["unsupported"], "so\n" * 1000),
    model_list=edited(CONFIG, lambda c: c.update(model=[])),
    model_null=edited(CONFIG, lambda c: c.update(model=None)),
    model_text=edited(CONFIG, lambda c: c.update(model="x")),
    members_one=edited(CONFIG, lambda c: c.update(model={"members": [{}]})),
    members_of_numbers=edited(CONFIG, lambda c: c.update(model={"members": [1, 2]})),
    members_text=edited(CONFIG, lambda c: c.update(model={"members": "ab"})),
    members_many=edited(CONFIG, lambda c: c.update(model={"members": [places(c)[0]] * 300})),
    members_in_members=edited(
        CONFIG, lambda c: c.update(model={"members": [{"members": [places(c)[0]] * 2}] * 2})
    ),
    class_other=at(["model", "audio_encoder", "class"], "os.system"),
    class_list=at(["model", "audio_encoder", "class"], ["ResNetEncoder"]),
    class_endless=at(["model", "audio_encoder", "class"], "x" * MILLION),
    class_text_for_audio=at(["model", "audio_encoder", "class"], "ByteTextEncoder"),
    encoder_null=at(["model", "text_encoder"], None),
    encoder_config_list=at(["model", "text_encoder", "config"], []),
    pooling_other=at(["model", "pooling", "config"], {"input_size": 7}),
    pooling_huge=at(["model", "pooling", "config"], {"input_size": 10**9}),
    pooling_half=at(["model", "pooling", "config"], {"input_size": 1.5}),
    pooling_null=at(["model", "pooling", "config", "input_size"], None),
    heads_empty=at(["model", "heads"], []),
    heads_million=at(["model", "heads"], [f"h{i}" for i in range(50_000)]),
    heads_twice=at(["model", "heads"], ["emotion", "emotion"]),
    heads_dot=at(["model", "heads"], ["a.b"]),
    heads_blank=at(["model", "heads"], [""]),
    heads_of_modules=at(["model", "heads"], ["forward"]),
    heads_without_words=at(["model", "heads"], ["age"]),
    heads_of_numbers=at(["model", "heads"], [1]),
    embedding_zero=at(["model", "embedding_size"], 0),
    embedding_negative=at(["model", "embedding_size"], -24),
    embedding_million=at(["model", "embedding_size"], MILLION),
    embedding_huge=at(["model", "embedding_size"], 10**18),
    embedding_float=at(["model", "embedding_size"], 24.0),
    hidden_and_embedding=edited(
        CONFIG, lambda c: [m.update(embedding_size=MILLION, hidden_size=MILLION) for m in places(c)]
    ),
    dropout_one=at(["model", "dropout"], 1),
    dropout_text=at(["model", "dropout"], "0"),
    trim_negative=at(["model", "trim_db"], -1),
    trim_huge=at(["model", "trim_db"], 1e300),
    trim_list=at(["model", "trim_db"], [40]),
    speeds_many=at(["model", "tta_speeds"], [100] * MILLION),
    speeds_repeated=at(["model", "tta_speeds"], [100] * 500),
    speeds_zero=at(["model", "tta_speeds"], [0]),
    speeds_empty=at(["model", "tta_speeds"], []),
    speeds_half=at(["model", "tta_speeds"], [99.5]),
    header_long=written(WEIGHTS, struct.pack("<Q", 2**63) + b"{}"),
    header_of_gigabytes=lambda folder: sparse_header(folder, 2**30),
    header_of_megabytes=lambda folder: sparse_header(folder, 90 * 2**20),
    header_empty=written(WEIGHTS, struct.pack("<Q", 0)),
    header_deep=header(lambda h: DEEP.encode()),
    header_deep_inside=header(lambda h: b'{"__metadata__":' + DEEP.encode() + b"}"),
    header_list=header(lambda h: []),
    header_digits=header(lambda h: {"a": {**first(h), "shape": [10**400]}}),
    header_negative=header(lambda h: {"a": {**first(h), "shape": [-1]}}),
    header_overflow=header(lambda h: {"a": {**first(h), "shape": [2**40] * 3}}),
    header_many=header(header_of_many),
    header_offsets=header(lambda h: {k: {**v, "data_offsets": [0, 4]} for k, v in h.items()}),
    header_backward=header(lambda h: {**h, "b": {**first(h), "data_offsets": [9, 4]}}),
    header_dtype=header(lambda h: {k: {**v, "dtype": "X9"} for k, v in h.items()}),
    header_escapes=header(lambda h: {**h, "\x1b[2J\n": EMPTY}),
    weights_nan=filled(math.nan),
    weights_infinite=filled(math.inf),
    weights_minus_infinite=filled(-math.inf),
    weights_nan_bias=filled(math.nan, "text_projection.layers.3.bias"),
    weights_zero=tensors(lambda s, _: {k: torch.zeros_like(v) for k, v in s.items()}),
    weights_overflow=filled(3e38),
    weights_of_one_text=filled(0.0, "text_projection.layers.3.weight"),
    weights_overflow_as_doubles=tensors(lambda s, n: s | {n: s[n].double() * 1e300}),
    temperature_nan=filled(math.nan, "audio_scales.emotion.log_scale"),
    temperature_none=filled(-1e4, "audio_scales.emotion.log_scale"),
    weights_integers=tensors(lambda s, n: s | {n: s[n].int()}),
    weights_complex=tensors(lambda s, n: s | {n: s[n].to(torch.complex64)}),
    weights_bool=tensors(lambda s, n: s | {n: s[n] > 0}),
    weights_bytes=tensors(lambda s, n: s | {n: s[n].to(torch.float8_e4m3fn)}),
    weights_flat=tensors(lambda s, n: s | {n: s[n].flatten()}),
    weights_turned=tensors(lambda s, n: s | {n: s[n].T}),
    weights_empty_tensor=tensors(lambda s, n: s | {n: s[n][:0]}),
    weights_one_less=tensors(lambda s, n: {k: v for k, v in s.items() if k != n}),
    weights_one_more=tensors(lambda s, n: s | {"more": torch.zeros(1)}),
    weights_none=tensors(lambda s, n: {}),
)  # fmt: skip
add(
    SCRATCH,
    hop_zero=at([*AUDIO, "hop_ms"], 0),
    hop_negative=at([*AUDIO, "hop_ms"], -16),
    hop_tiny=at([*AUDIO, "hop_ms"], 1e-9),
    hop_text=at([*AUDIO, "hop_ms"], "16"),
    window_huge=at([*AUDIO, "window_ms"], 1e9),
    window_tiny=at([*AUDIO, "window_ms"], 1e-9),
    lobe_rate_tiny=at([*AUDIO, "sample_rate"], 1),
    lobe_rate_huge=at([*AUDIO, "sample_rate"], 10**9),
    mels_million=at([*AUDIO, "n_mels"], MILLION),
    mels_half=at([*AUDIO, "n_mels"], 20.5),
    channels_million=at([*AUDIO, "channels"], [8] * MILLION),
    channels_many=edited(
        CONFIG,
        lambda c: [
            m["audio_encoder"]["config"].update(channels=[4] * 500, strides=[1] * 500)
            for m in places(c)
        ],
    ),
    channels_wide=at([*AUDIO, "channels"], [MILLION, MILLION]),
    channels_empty=at([*AUDIO, "channels"], []),
    channels_text=at([*AUDIO, "channels"], "48"),
    channels_of_texts=at([*AUDIO, "channels"], ["4", "8"]),
    channels_true=at([*AUDIO, "channels"], [True, True]),
    strides_zero=at([*AUDIO, "strides"], [0, 0]),
    output_million=at([*AUDIO, "output_size"], MILLION),
    masks_negative=at([*AUDIO, "time_masks"], -1),
    masks_huge=at([*AUDIO, "time_mask_ms"], 1e308),
    centred_text=at([*AUDIO, "center_utterances"], "no"),
    checkpointing_text=at([*AUDIO, "gradient_checkpointing"], "no"),
    lobe_surprise=at([*AUDIO, "surprise"], 1),
    text_layers=at([*TEXT, "layers"], MILLION),
    text_layers_two_hundred=at([*TEXT, "layers"], 200),
    text_heads=at([*TEXT, "heads"], MILLION),
    text_heads_zero=at([*TEXT, "heads"], 0),
    text_heads_three=at([*TEXT, "heads"], 3),
    text_width=at([*TEXT, "hidden_size"], MILLION),
    text_bytes=at([*TEXT, "max_bytes"], 10**9),
    text_bytes_one=at([*TEXT, "max_bytes"], 1),
    text_dropout=at([*TEXT, "dropout"], "high"),
    pooling_channels=at(["model", "pooling", "config", "attention_channels"], 10**9),
    variance_negative=filled(-1.0, "join_norm.running_var"),
    variance_nan=filled(math.nan, "join_norm.running_var"),
)  # fmt: skip
add(
    PRETRAINED,
    ssl_layers=at([*SSL, "num_hidden_layers"], MILLION),
    ssl_layers_two_hundred=at([*SSL, "num_hidden_layers"], 200),
    ssl_layers_none=at([*SSL, "num_hidden_layers"], 0),
    ssl_heads=at([*SSL, "num_attention_heads"], MILLION),
    ssl_heads_zero=at([*SSL, "num_attention_heads"], 0),
    ssl_width=at([*SSL, "hidden_size"], MILLION),
    ssl_width_text=at([*SSL, "hidden_size"], "32"),
    ssl_inner=at([*SSL, "intermediate_size"], 10**9),
    ssl_buckets=at([*SSL, "num_buckets"], MILLION),
    ssl_strides=at([*SSL, "conv_stride"], [1000] * 7),
    ssl_strides_one=at([*SSL, "conv_stride"], [1] * 7),
    ssl_strides_zero=at([*SSL, "conv_stride"], [0] * 7),
    ssl_strides_text=at([*SSL, "conv_stride"], ["5"] * 7),
    ssl_strides_number=at([*SSL, "conv_stride"], 5),
    ssl_kernels=at([*SSL, "conv_kernel"], [MILLION] * 7),
    ssl_convolutions=at([*SSL, "conv_dim"], [16] * 100_000),
    ssl_positions=at([*SSL, "num_conv_pos_embeddings"], MILLION),
    ssl_groups=at([*SSL, "num_conv_pos_embedding_groups"], 0),
    ssl_activation=at([*SSL, "hidden_act"], "os.system"),
    ssl_activation_number=at([*SSL, "hidden_act"], 5),
    ssl_norm=at([*SSL, "feat_extract_norm"], "none"),
    ssl_epsilon=at([*SSL, "layer_norm_eps"], -1e9),
    ssl_type=at([*SSL, "model_type"], "t5"),
    ssl_type_list=at([*SSL, "model_type"], ["wavlm"]),
    ssl_type_of_text=at([*SSL, "model_type"], "roberta"),
    ssl_other_family=at([*SSL, "model_type"], "hubert"),
    ssl_adapter=at([*SSL, "add_adapter"], True),
    ssl_labels=at([*SSL, "id2label"], {str(i): "x" for i in range(50_000)}),
    ssl_labels_text=at([*SSL, "id2label"], {"9" * 5000: "x"}),
    ssl_code=at([*SSL, "auto_map"], {"AutoModel": "evil--Model"}),
    ssl_null=at([*AUDIO, "model"], None),
    ssl_layers_option=at([*AUDIO, "layers"], 10**9),
    ssl_layers_true=at([*AUDIO, "layers"], True),
    ssl_layers_list=at([*AUDIO, "layers"], ["last"]),
    ssl_normalize_text=at([*AUDIO, "normalize_wav"], "no"),
    ssl_normalize_null=at([*AUDIO, "normalize_wav"], None),
    ssl_freeze_text=at([*AUDIO, "freeze"], "no"),
    ssl_attention=at([*AUDIO, "attention"], "somebody/kernels"),
    ssl_lora_rank=edited(
        CONFIG,
        lambda c: c["model"]["audio_encoder"]["config"].update(
            adapter="lora", adapter_options={"rank": 10**9}
        ),
    ),
    ssl_lora_targets=edited(
        CONFIG,
        lambda c: c["model"]["audio_encoder"]["config"].update(
            adapter="lora", adapter_options={"target_layers": ["*a" * 200 + "b"] * 50_000}
        ),
    ),
    ssl_surprise=at([*AUDIO, "source"], "somebody/model"),
    text_depth=at([*HF, "num_hidden_layers"], MILLION),
    text_depth_negative=at([*HF, "num_hidden_layers"], -1),
    text_heads_many=at([*HF, "num_attention_heads"], MILLION),
    text_vocabulary=at([*HF, "vocab_size"], MILLION),
    text_vocabulary_huge=at([*HF, "vocab_size"], 10**12),
    text_vocabulary_text=at([*HF, "vocab_size"], "320"),
    text_positions=at([*HF, "max_position_embeddings"], 10**9),
    text_padding=at([*HF, "pad_token_id"], 10**6),
    text_types=at([*HF, "type_vocab_size"], 0),
    text_cross=at([*HF, "add_cross_attention"], True),
    text_decoder=at([*HF, "is_encoder_decoder"], True),
    text_tuple=at([*HF, "return_dict"], False),
    text_chunks=at([*HF, "chunk_size_feed_forward"], 7),
    text_type=at([*HF, "model_type"], "gpt2"),
    text_type_of_another=at([*HF, "model_type"], "albert"),
    text_freeze_text=at([*TEXT, "freeze"], "no"),
    text_freeze_missing=edited(
        CONFIG, lambda c: c["model"]["text_encoder"]["config"].pop("freeze")
    ),
    tokenizer_missing=lambda folder: shutil.rmtree(folder / "tokenizer"),
    tokenizer_is_a_link=tokenizer_link,
    tokenizer_is_a_file=lambda folder: (
        shutil.rmtree(folder / "tokenizer"), (folder / "tokenizer").write_text("{}")
    ),
    tokenizer_is_a_pipe=lambda folder: (
        shutil.rmtree(folder / "tokenizer"), os.mkfifo(folder / "tokenizer")
    ),
    tokenizer_has_a_model=lambda folder: shutil.copy(
        folder / CONFIG, folder / "tokenizer/config.json"
    ),
    tokenizer_has_tekken=written("tokenizer/tekken.json", b"{}"),
    tokenizer_has_code=written("tokenizer/tokenization.py", b"import os"),
    tokenizer_has_many=lambda folder: [
        (folder / f"tokenizer/{i}.txt").touch() for i in range(100)
    ],
    tokenizer_has_a_pipe=lambda folder: os.mkfifo(folder / "tokenizer/chat_template.jinja"),
    tokenizer_has_gigabytes=sparse("tokenizer/vocab.txt", 2**31),
    tokenizer_class_other=edited(
        TOKENIZER_CONFIG, lambda c: c.update(tokenizer_class="BertJapaneseTokenizer")
    ),
    tokenizer_class_list=edited(TOKENIZER_CONFIG, lambda c: c.update(tokenizer_class=["x"])),
    tokenizer_class_none=edited(TOKENIZER_CONFIG, lambda c: c.pop("tokenizer_class")),
    tokenizer_backend=edited(TOKENIZER_CONFIG, lambda c: c.update(backend="mistral-common")),
    tokenizer_length_text=edited(TOKENIZER_CONFIG, lambda c: c.update(model_max_length="x")),
    tokenizer_length_negative=edited(TOKENIZER_CONFIG, lambda c: c.update(model_max_length=-1)),
    tokenizer_length_small=edited(TOKENIZER_CONFIG, lambda c: c.update(model_max_length=3)),
    tokenizer_file_elsewhere=edited(
        TOKENIZER_CONFIG, lambda c: c.update(vocab_file="/dev/zero", merges_file="/dev/zero")
    ),
    tokenizer_fast_files=edited(
        TOKENIZER_CONFIG, lambda c: c.update(fast_tokenizer_files=["tokenizer.9.json"])
    ),
    tokenizer_extra=edited(
        TOKENIZER_CONFIG, lambda c: c.update(extra_special_tokens=[f"t{i}" for i in range(50_000)])
    ),
    tokenizer_decoder=edited(
        TOKENIZER_CONFIG,
        lambda c: c.update(added_tokens_decoder={str(i): CONTENT for i in range(20_000)}),
    ),
    tokenizer_decoder_of_numbers=edited(
        TOKENIZER_CONFIG, lambda c: c.update(added_tokens_decoder={"x": 1})
    ),
    tokenizer_special_number=edited(TOKENIZER_CONFIG, lambda c: c.update(pad_token=5)),
    tokenizer_special_object=edited(TOKENIZER_CONFIG, lambda c: c.update(pad_token={"a": 1})),
    tokenizer_unpadded=edited(TOKENIZER_CONFIG, lambda c: c.update(pad_token=None)),
    tokenizer_no_model=edited(TOKENIZER, lambda t: t.pop("model")),
    tokenizer_other_model=edited(TOKENIZER, lambda t: t["model"].update(type="WordLevel")),
    tokenizer_no_vocabulary=edited(TOKENIZER, lambda t: t["model"].update(vocab={})),
    tokenizer_few_words=edited(
        TOKENIZER, lambda t: t["model"].update(vocab=dict([*t["model"]["vocab"].items()][:5]))
    ),
    tokenizer_many_words=edited(
        TOKENIZER, lambda t: t["model"].update(vocab={f"t{i}": i for i in range(50_000)})
    ),
    tokenizer_vocabulary_of_texts=edited(
        TOKENIZER, lambda t: t["model"].update(vocab={f"t{i}": "x" for i in range(320)})
    ),
    tokenizer_no_merges=edited(TOKENIZER, lambda t: t["model"].update(merges=[])),
    tokenizer_merges_missing=edited(TOKENIZER, lambda t: t["model"].pop("merges")),
    tokenizer_merges_of_numbers=edited(
        TOKENIZER, lambda t: t["model"].update(merges=[[1, 2]] * 60)
    ),
    tokenizer_added=edited(
        TOKENIZER,
        lambda t: t.update(
            added_tokens=[{**CONTENT, "id": i, "content": f"t{i}"} for i in range(20_000)]
        ),
    ),
    tokenizer_added_of_numbers=edited(TOKENIZER, lambda t: t.update(added_tokens=[1])),
    tokenizer_expression=edited(TOKENIZER, lambda t: t.update(pre_tokenizer=SPLIT)),
    tokenizer_expressions=edited(
        TOKENIZER,
        lambda t: t.update(normalizer={**REPLACE, "pattern": {"Regex": "(?:a{99}){99}"}}),
    ),
    tokenizer_doubling=edited(
        TOKENIZER,
        lambda t: t.update(normalizer={"type": "Sequence", "normalizers": [REPLACE] * 40}),
    ),
    tokenizer_growing=edited(
        TOKENIZER, lambda t: t.update(normalizer={**REPLACE, "content": "x" * MILLION})
    ),
    tokenizer_charsmap=edited(
        TOKENIZER,
        lambda t: t.update(normalizer={"type": "Precompiled", "precompiled_charsmap": "A" * 2**21}),
    ),
    tokenizer_charsmap_broken=whole(
        lambda t: t.update(normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA" * 99})
    ),
    tokenizer_padding=edited(
        TOKENIZER,
        lambda t: t.update(
            padding={"strategy": {"Fixed": 10**9}, "direction": "Right", "pad_to_multiple_of": None,
                     "pad_id": 1, "pad_type_id": 0, "pad_token": "<pad>"}
        ),
    ),
    tokenizer_random=edited(TOKENIZER, lambda t: t["model"].update(dropout=0.5)),
    tokenizer_deaf=whole(
        lambda t: t.update(
            pre_tokenizer={**SPLIT, "pattern": {"Regex": "."}, "behavior": "Removed"}
        )
    ),
    tokenizer_added_twice=whole(lambda t: t["added_tokens"].append({**CONTENT, "id": 10**18})),
    tokenizer_parts_of_numbers=edited(TOKENIZER, lambda t: t.update(normalizer=5)),
)  # fmt: skip

EMPTY = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}


def first(entries):
    return next(of for name, of in entries.items() if name != "__metadata__")


def sparse_header(folder, length):
    with open(folder / WEIGHTS, "wb") as file:
        file.write(struct.pack("<Q", length))
        file.truncate(length + 100)


def cases():
    """Give each case to one of its kinds, in turn: what a kind does not share has its own cases."""
    for number, (name, kinds, apply) in enumerate(CASES):
        kind = kinds[number % len(kinds)]
        yield pytest.param(kind, apply, id=f"{name}-{kind}")


@pytest.mark.parametrize(("kind", "apply"), cases())
def test_refused_in_one_line(folders, tmp_path, kind, apply):
    (tmp_path / "whole").symlink_to(folders[kind])
    folder = shutil.copytree(folders[kind], tmp_path / "model")
    apply(folder)
    assert_refused(folder)


def test_good_folders_load(folders, tmp_path):
    """What every case is a change of; and half precision, which the weights may have."""
    for kind, folder in folders.items():
        copy = shutil.copytree(folder, tmp_path / kind)
        tensors(lambda s, n: s | {n: s[n].half()})(copy)
        for given in (folder, copy):
            classes = GEmoCLAPClassifier.from_pretrained(given).mods.classifier.classes
            assert torch.isfinite(classes).all() and classes.any()
