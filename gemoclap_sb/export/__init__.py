"""A run becomes a folder that moves freely, and that stock SpeechBrain loads."""

from gemoclap_sb.export.folder import export, export_encoder
from gemoclap_sb.export.hub import push_to_hub
from gemoclap_sb.export.trained import ExportError

__all__ = ["ExportError", "export", "export_encoder", "push_to_hub"]
