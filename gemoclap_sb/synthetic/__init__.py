"""The embedded corpus of synthetic emotional speech."""
