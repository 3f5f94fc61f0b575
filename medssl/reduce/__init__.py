"""Which slices are worth training on: near-duplicates found, honest controls beside, leaks kept out."""
