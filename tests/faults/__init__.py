"""No fault loses or falsifies a result: real processes, killed, starved and set on each other."""
