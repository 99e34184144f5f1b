"""A worker with each route twice: one that says that it passes the response on, and one that just does so."""
