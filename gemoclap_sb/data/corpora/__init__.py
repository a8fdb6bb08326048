"""Corpora that more than one recipe reads: a folder becomes rows, rows the manifests of a fold."""
