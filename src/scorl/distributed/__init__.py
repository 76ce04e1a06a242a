"""Many processes: what they say to each other (`ranks`), and what starts them (`torchrun`, `ray`)."""
