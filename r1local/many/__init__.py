"""Many replies at once: rows, each answered by one sample or by the vote of several."""
