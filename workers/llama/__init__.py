"""The worker of llama.cpp: `workers.openai` with its log, phrases and variable."""
