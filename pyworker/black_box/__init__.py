"""What was known when a worker failed, in one file: of requests only ids, routes, times and outcomes.

folder       the files: one that is written again and again, and those that are kept
machine      memory, disk, descriptors, threads and GPU
contents     everything that a file holds
start_times  how long the phases of a start take, and took the last time
keeper       when which file is written, while the worker runs
reader       a file from disk, checked
causes       the likely cause, and what to do
story        a file, told to a person
"""
