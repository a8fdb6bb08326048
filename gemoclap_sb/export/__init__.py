"""A run becomes a folder that moves freely, and that stock SpeechBrain loads."""

from gemoclap_sb.export.folder import ExportError, export
from gemoclap_sb.export.hub import push_to_hub

__all__ = ["ExportError", "export", "push_to_hub"]
