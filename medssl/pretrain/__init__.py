"""Stage pretrain: trains an encoder without labels."""
