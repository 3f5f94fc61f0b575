"""Which slices are worth training on: near-duplicates dropped, compared with honest controls, leaks excluded."""
