"""Model inputs to text: loading a checkpoint, asking it, streaming its answer, and splitting reasoning from answer."""
