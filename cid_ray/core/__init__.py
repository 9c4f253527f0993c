"""The method: losses, model, augmentation, one step, evaluation. Never Ray, never files of a data set."""
