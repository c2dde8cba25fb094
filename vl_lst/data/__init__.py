"""Data of a run.

`examples` loads and checks the examples of a task, with its list from `answer_lists`; `text_issues`
counts texts that a model cannot read or generate, and `text_warnings` reports them. `task_data`
builds the `batches` with their `targets`; `order` determines the examples of each training step.
"""
