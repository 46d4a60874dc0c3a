"""The mathematics of Freshet: pure functions and array state, no I/O."""
