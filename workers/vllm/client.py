"""An example client: that of `workers.openai`."""

from __future__ import annotations

import sys

from workers.openai.client import main

if __name__ == "__main__":
    sys.exit(main(worker="vllm"))
