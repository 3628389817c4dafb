"""The final answer of a reply, and whether two answers say the same.

extract         what a reply gives as its answer: the last box, a letter, a number
dressing        an answer without what only makes it look well
quantities      exact numbers with their units
reading         an answer as numbers, lists, tuples, intervals, matrices and words
compare         whether two readings say the same: yes, no, or not known here
judge           asks a computer algebra library where that is not known; judge_worker is its process
"""

from __future__ import annotations

from r1local.answers.compare import same
from r1local.answers.extract import boxed, final_answer, letter
from r1local.answers.judge import Judge

__all__ = ["Judge", "boxed", "final_answer", "letter", "same"]
