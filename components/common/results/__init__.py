"""What is known of a model's quality: metrics.json and predictions.jsonl, written and read here."""
