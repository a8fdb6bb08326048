"""Contrastive language-audio models of emotional speech for SpeechBrain."""
