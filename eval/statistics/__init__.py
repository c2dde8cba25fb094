"""Statistics of scores: what a score says about the examples that were not drawn.

`samples` sums per-example values up by cluster, `estimates` averages them over seeds and computes
intervals, `paired` tests differences, `holm` controls the error of several tests, `student` has
Student's t distribution, and `jackknife` makes per-example values of metrics that are not means.
The formulas and their sources are in `docs/leaderboard.md`.
"""
