"""Events from outside to columns, straight from their bytes."""
