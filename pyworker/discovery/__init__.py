"""`BACKEND=auto`: which worker fits the model server that runs on this machine.

fingerprints  which server answers at a URL
log_evidence  which server writes this log
survey        all that listens and all that is logged, and what follows from it
waiting       the worker that stands in until the model server is known
"""
