"""The start of a worker: what start_server.sh runs before there is an environment. See README.md here."""
