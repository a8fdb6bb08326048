"""Tests of the package, by its rooms."""

from __future__ import annotations

import functools

import speechbrain.utils.logger as logger

# Each run asks pip for what is installed, which takes a second and does not change meanwhile.
logger.get_environment_description = functools.cache(logger.get_environment_description)
logger.get_environment_description()
