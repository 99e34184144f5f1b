"""The start of a worker on an instance, before there is an environment: the standard library alone.

launcher     all steps of a start, and the worker's parent process
children     child processes that end with the launcher; signals
output       what a start prints, and `StartError`
environment  .venv and its packages
update       the newest version of the checkout
lock         one start at a time
ports        free ports, and the processes that listen on them
logs         old logs set aside, the worker's output copied, why it ended
certificate  key and certificate of the instance
beacon       reports that the worker cannot start
"""
