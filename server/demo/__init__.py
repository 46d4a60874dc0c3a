"""Simulated users against a server, and what is shown of it: the parts of `freshet demo` and `freshet simulate`."""
