"""Generation of answers.

`Answerer` (`answering`) takes batches: it either ranks the answer list with the classifier, or
calls `search.generate`, optionally constrained to the answer list by an `answer_tree`. A search
drops `finished_rows`.
"""
