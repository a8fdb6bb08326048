"""What can be wrong with a model's description."""


class ConfigurationError(ValueError):
    """A model that cannot be described, or a description that cannot be followed."""
