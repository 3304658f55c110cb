"""What runs under torchrun, or alone: fairseq-train in one process for each GPU."""
