"""The bounds of what a caller may send and of what the server holds: each is named here, once.

Bounds of events belong to `streams.limits`; what a slate and its impression share is taken from there.
"""

from streams.limits import (
    MAX_CLUSTERS_PER_CONTEXT,
    MAX_EVENTS_PER_RECORD,
    MAX_ITEMS_PER_SLATE,
    MAX_ROWS_PER_RECORD,
)
from streams.limits import MAX_ID_BYTES as MAX_ID_BYTES
from streams.limits import MAX_SURFACE_BYTES as MAX_SURFACE_BYTES

MAX_CANDIDATES = MAX_SLATE = MAX_ITEMS_PER_SLATE
MAX_EXCLUDED = 5_000
MAX_PATH_BYTES = 4_096
MAX_EMBEDDING_VALUES = 4_096

MAX_BATCH_REQUESTS = 256
MAX_BATCH_CANDIDATES = 100_000  # of all requests of one ScoreBatch together

MAX_CLUSTERS = MAX_CLUSTERS_PER_CONTEXT
MAX_DICTIONARY_IDS = 100_000  # of one packed call, or of one stream

MAX_FEEDBACK_ELEMENTS = MAX_EVENTS_PER_RECORD
MAX_FEEDBACK_ITEMS = MAX_ROWS_PER_RECORD  # of all impressions of one call together

DEFAULT_LISTED_ITEMS = 20
MAX_LISTED_ITEMS = 1_000
MAX_CHANGED_ITEMS = 1_000
MAX_ITEM_CLUSTERS = 1_024

MAX_REDRAWN_SCORES = 400_000  # candidates times redraws of one Thompson slate

# An unseen edge has an infinite bound; replies are finite.
SENT_INFINITY = 1e9

MAX_READERS = 64  # processes that serve from one memory
MAX_TORN_READINGS = 8  # of one call, where another process writes the parameters
MAX_VIOLATIONS = 16  # of one refusal, which travels in the trailing metadata (8 KiB)
MAX_QUOTED_CHARACTERS = 80  # of a value that a refusal repeats
MAX_BUDGETS = 256  # of exploration, by surface
MAX_SURFACES = 32  # distinct values of the label; later ones count as "other"

HTTP_CONNECTIONS = 16
HTTP_TIMEOUT_S = 5.0
HISTORY_SAMPLES = 600  # of the console's chart
SAMPLE_INTERVAL_S = 1.0
PRIOR_REFIT_S = 60.0  # of the Beta prior
WARM_UP_CANDIDATES = 100
SMALLEST_LOOP_GRACE_S = 1.0  # left to the loop for writing, however long the calls took

FIRST_HOLD_MS = 120_000  # how long a slate may be on its way before its new items are taken for not shown
