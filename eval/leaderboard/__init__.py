"""The leaderboard: finished runs, grouped by protocol, averaged over seeds, compared.

`runs` finds the record.json files below a folder, and says why some do not count; `protocol` knows
what makes runs comparable and what names a row; `board` makes the rows, with the `quantities` they
compare and the Pareto `front`; `reported` is what papers say, which never mixes with what was
measured; `tables` writes it all as Markdown, LaTeX, CSV and JSON.
"""
