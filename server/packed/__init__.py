"""Slates by the column: many requests in one message, decoded without a Python object each."""
