"""The workers that come with pyworker: one package for each kind of model server."""
