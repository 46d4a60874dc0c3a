"""The commands of the `freshet` program, one module each."""
