"""A worker made the short way, whose routes use what the echo worker's do not: settlement, API keys, jobs."""
