"""A trained model at work: on waveforms, on files of any number and length."""

from gemoclap_sb.inference.bulk import BulkOptions, FileEmbedding
from gemoclap_sb.inference.classifier import GEmoCLAPClassifier
from gemoclap_sb.inference.results import Classification, Match
from gemoclap_sb.inference.speaker_encoder import SpeakerEncoder
from gemoclap_sb.inference.timeline import Timeline, draw_timeline

__all__ = [
    "BulkOptions",
    "Classification",
    "FileEmbedding",
    "GEmoCLAPClassifier",
    "Match",
    "SpeakerEncoder",
    "Timeline",
    "draw_timeline",
]
