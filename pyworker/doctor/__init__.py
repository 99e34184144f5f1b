"""`python -m pyworker.doctor`: checks what commonly goes wrong on an instance. See README.md here."""
