"""One file for each figure quoted in the README; each compares two things in one run."""
