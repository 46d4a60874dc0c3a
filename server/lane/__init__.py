"""The short way of a call: from its bytes to the bytes of its answer in compiled loops, without messages."""
