"""The leaderboard: finished runs, grouped by protocol and averaged over seeds.

`runs` finds the `record.json` files in a folder and the reasons why some runs are left out;
`protocol` defines which runs are comparable and what identifies a row; `board` builds the rows from
the `quantities` they compare, with the Pareto `front`; `reported` holds results from papers, which
are kept apart from measured ones; `tables` writes Markdown, LaTeX, CSV and JSON.
"""
