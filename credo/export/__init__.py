"""What a run has made, for people who do not have the run: folders that any Hugging Face program loads."""
