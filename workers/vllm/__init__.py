"""The worker of vLLM: `workers.openai` with its log, phrases and variable."""
