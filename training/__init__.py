"""Makes the model inside: its problems, its tokenizer, its training and its examination. Not part of the package."""
