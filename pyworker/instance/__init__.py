"""Programs that start_server.sh runs before there is an environment: the standard library is all they need.

Each runs as a file, `python3 -I pyworker/instance/ports.py`. What is wrong goes to stdout, a line for each
fault, and from there into the script's own words; progress goes to stderr.
"""
