"""The leaderboard as one page of HTML that needs nothing else: no network, no other file.

`page` renders the templates and their style and script; `axes` and `plot` lay out scores against
costs, `curves` what happened during training; `examples` is what the browser of examples shows.
"""
