"""prepare: what the network sees. Arrays on a common grid, slices, a split by patient, a fingerprint."""
