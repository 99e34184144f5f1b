"""Coverage-guided fuzzing of what comes from outside; see `python -m tests.fuzz --help`."""
