"""An example worker: a text model that answers at once or as a stream."""
