"""What the model families share: data, text, encoders, decoders, losses, augmentation, generation, metrics."""
