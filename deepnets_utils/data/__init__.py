"""Data sets as uint8 tensors, checked; splits, augmentation, and tasks: inputs, targets, loss and metrics."""
