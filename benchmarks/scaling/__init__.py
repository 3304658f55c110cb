"""Time and cost of fine-tuning RoBERTa-large on RACE with 1 to 64 GPUs: a model, and its check."""
