"""Worlds that pictures come from, each with its model and what it registers for the rooms below."""
