"""`python -m tests.benchmarks`: this worker, its asyncio peer and nginx before one model server, in one run.

scenarios   what is measured
programs    the C programs: compiled, the model server started, the load generator run
processes   CPU time and memory of a server's processes
peer        the peer, installed into an environment of its own
servers     what is compared, started for one scenario
measure     rounds over scenarios → figures
figures     figures of rounds → medians, and ratios to the peer
report      tables
plot        the SVG
"""
