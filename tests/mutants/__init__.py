"""Faults, planted one at a time: every line of defence has a test that falls without it.

``catalogue/`` mirrors the package.  Each file lists faults of one module:

    - name: votes-are-forgotten
      cost: A restart votes twice in one term; two leaders lose acknowledged writes.
      find: |-
        self._store.set_term(term, vote)
      replace: |-
        self._store.set_term(term, None)
      caught_by:
        - tests/unit/raft/test_journal.py::test_journal_synced_changes_survive_a_crash
        - sim --seeds 0:20 --faults crash

`find` is text that occurs once in the module; of several lines, whole lines,
indented as in the module but for what they have in common.  `caught_by` names
tests, and simulations, any of which suffices; `equivalent`, instead, says why
no user could tell the difference.

    python -m tests.mutants raft/journal     # of one module; or of a folder, or one fault by name
    python -m tests.mutants --changed        # of changed modules, or those of the last commit
    python -m tests.mutants --every 10       # a fixed sample
    python -m tests.mutants --all
"""
