"""`python -m pyworker.doctor`: checks what commonly goes wrong on an instance. See README.md.

checks       the list of checks, in their order
running      the worker that runs beside it, and its settings
environment  settings, identity, the worker package
network      the port, the autoscaler, the model server
certificate  the certificate and key of USE_SSL=true
model        the model's log, tokenizer and words
machine      disk and descriptors
finding      what a check found, and what later checks need of it
replay       a saved log, run through the state machine
"""
