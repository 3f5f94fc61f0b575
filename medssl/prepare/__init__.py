"""prepare: the network's input. Arrays on a common grid, slices, a split by patient, a fingerprint."""
