"""A worker for tests: parallel and serial routes with every usual way to answer."""
