"""Genomes: the released sequences of Loculus organisms become SILO indexes that readers can trust."""
