"""The method on tensors: losses, model, augmentation, one step, mIoU. No Ray, no data files."""
