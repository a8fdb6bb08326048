"""From a corpus to batches: audio, manifests, splits, samplers, prompts."""
