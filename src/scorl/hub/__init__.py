"""What a run gives to others: a model card, a folder that is uploaded, results in the hub's form."""
