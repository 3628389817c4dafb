"""Problem sets, grading, statistics and reports: what `r1local eval` is made of.

tasks.py says what is asked, problems.py gets it, grading.py judges a reply, statistics.py counts, report.py and
plot.py show it. Nothing here runs a model.
"""
