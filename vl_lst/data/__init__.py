"""Data of a run.

`examples` loads and checks the examples of a task, with its `answer_lists`; `text_issues` counts the
texts that a model cannot read or generate, of which `text_warnings` warns. `task_data` builds the
`batches` with their `targets`; `order` determines the examples of each training step.
"""
