"""`python -m pyworker.doctor`: what commonly goes wrong on an instance, checked line by line.

finding      what a check found, and what checks share
checks       the table of checks
environment  settings, identity, the worker package
certificate  the files of TLS
network      the port, the autoscaler, the model server
machine      disk, descriptors
model        the model's log, tokenizer and words
replay       a saved log, run through the worker's state machine
"""
