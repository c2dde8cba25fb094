"""The leaderboard as one self-contained HTML page.

`page` renders the templates with their style sheet and scripts; `plot` and `axes` place scores
against costs, `curves` reads training curves, and `examples` holds predictions to browse.
"""
