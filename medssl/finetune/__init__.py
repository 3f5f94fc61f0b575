"""Finetune: what an encoder buys with few labels, under one recipe for every starting point."""
