"""Bounds on what comes from outside, in one place."""

MAX_ID_BYTES = 256
MAX_LABEL_BYTES = 64
MAX_ITEMS_PER_SLATE = 5_000
MAX_CLUSTERS_PER_CONTEXT = 64
MAX_CLUSTER_ID = 2**31 - 1
MAX_POSITION = MAX_ITEMS_PER_SLATE - 1
MAX_EVENTS_PER_RECORD = 10_000
MAX_ROWS_PER_RECORD = 100_000
MAX_TIME_MS = 2**53  # beyond this a JSON reader would lose milliseconds
