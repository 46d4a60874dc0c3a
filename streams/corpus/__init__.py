"""The offline half: from logs or embeddings to a graph of clusters and items.

Nothing here runs while the loop runs; every step is seeded and writes plain files.
"""
