"""Measuring attributes on references of which shape and appearance are known."""
