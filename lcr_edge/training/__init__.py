"""Training: what happens between a data set and a checkpoint, and the record that a run keeps of itself."""
