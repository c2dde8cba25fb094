"""The leaderboard as one self-contained HTML page.

`page` renders the templates with their style sheet and scripts. It shows the `plot` of scores
against costs, training `curves` (both with `axes`), and `examples` with their predictions.
"""
