"""Tests of pyworker: real servers and real processes."""
