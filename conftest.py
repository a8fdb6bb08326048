"""What all tests and doctests share."""

from __future__ import annotations

import sys

import hypothesis
import speechbrain  # noqa: F401
from speechbrain.utils.importutils import LazyModule

# Hypothesis asks every imported module for its file. SpeechBrain's lazy modules
# answer by importing what stands behind them, optional packages included.
for module in list(sys.modules.values()):
    if isinstance(module, LazyModule):
        module.__dict__.setdefault("__file__", None)

# A busy machine is slow at times; that is no failure of the code.
hypothesis.settings.register_profile("project", deadline=None)
hypothesis.settings.load_profile("project")
