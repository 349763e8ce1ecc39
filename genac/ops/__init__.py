"""Mathematics only: tensors in, tensors out. Nothing here samples, trains or reads a file."""
