"""The command `gemoclap`. Nothing here imports torch before it is needed."""
