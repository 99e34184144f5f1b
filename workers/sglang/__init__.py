"""The worker of SGLang: `workers.openai` with its log, phrases and variable."""
