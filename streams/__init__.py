"""Events in, parameters out: codecs, the RocksDB store, the embedded loop, replay."""
