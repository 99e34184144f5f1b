"""The worker that is measured: one whole and one streamed route, whose workload is counted for nothing."""
