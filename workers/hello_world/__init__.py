"""An example worker: a text model with whole and streamed responses."""
