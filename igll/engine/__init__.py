"""Training, evaluation and filling."""
