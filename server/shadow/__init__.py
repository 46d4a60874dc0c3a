"""Shadow policies: what other settings would have earned on the requests that are served, without touching them."""
