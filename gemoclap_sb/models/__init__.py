"""Models over the lobes: the two towers of GEmo-CLAP, each tower alone, a plain classifier."""

from gemoclap_sb.models.audio_classifier import AudioClassifier
from gemoclap_sb.models.class_layer import ClassLayer
from gemoclap_sb.models.cluster_encoder import ClusterEncoder
from gemoclap_sb.models.frame_classifier import FrameClassifier
from gemoclap_sb.models.gemoclap import GEmoCLAP
from gemoclap_sb.models.towers import AudioTower, ClassTexts, PassThrough, TextTower

__all__ = [
    "AudioClassifier", "AudioTower", "ClassLayer", "ClassTexts", "ClusterEncoder",
    "FrameClassifier", "GEmoCLAP", "PassThrough", "TextTower",
]  # fmt: skip
