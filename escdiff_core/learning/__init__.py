"""Learning an attribute from one reference: recipes, view sources, batches, the tuner."""
