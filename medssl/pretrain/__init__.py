"""Stage pretrain: what can be learnt without labels."""
