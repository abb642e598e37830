"""Model, loss, batches, checkpoints and the training loop."""
