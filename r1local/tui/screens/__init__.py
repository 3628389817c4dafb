"""One screen a file. They are given values and dismiss with one; what they look like is in the .tcss beside each."""
