"""Resumable, verified downloads from a Hugging Face Hub into the cache that all its tools share."""
