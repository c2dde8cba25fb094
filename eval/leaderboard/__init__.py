"""The leaderboard: finished runs, grouped by protocol and averaged over seeds.

`runs` finds the `record.json` files in a folder and decides which runs are left out; `protocol`
defines which runs are comparable and what identifies a row; `scoring` reads their scores, `rows`
averages scores and costs (`quantities`) over seeds, `suites` sums up the tasks of a suite, and
`board` puts the groups together and marks the Pareto `front`; `significance` tests which rows
differ by more than chance; `reported` has the results of papers; `tables` writes Markdown, LaTeX
and CSV, with numbers formatted by `units`, and `document` JSON.
"""
