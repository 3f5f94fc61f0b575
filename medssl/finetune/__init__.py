"""Finetune: the benefit of an encoder with few labels, under one recipe for every starting point."""
