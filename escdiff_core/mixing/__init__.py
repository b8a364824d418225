"""Mixing what was learned: which parts of whose change, and how they are drawn."""
