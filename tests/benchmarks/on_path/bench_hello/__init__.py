"""The worker that is measured, with routes that judge each response as hello_world's do."""
